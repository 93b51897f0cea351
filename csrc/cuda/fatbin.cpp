// MI_FATBIN is the file that tools/fatbin.py made. It is embedded in the section that nvcc would use, so that cuobjdump
// shows the machine code of the library.
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
