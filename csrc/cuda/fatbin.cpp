// MI_FATBIN names the file that tools/fatbin.py made. It goes where nvcc would put it, so that cuobjdump shows the
// machine code of the finished library.
#include "fatbin.h"

asm(R"(
    .pushsection .nv_fatbin, "a", @progbits
    .balign 16
    .hidden fatbin
    .globl fatbin
    fatbin:
    .incbin ")" MI_FATBIN R"("
    .popsection
)");
