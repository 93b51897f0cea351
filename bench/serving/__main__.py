from .vllm import main

main()
