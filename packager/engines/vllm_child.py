"""vLLM's command line with its CPU platform, run by the Python that has vLLM; rendering needs no GPU.

The ordinary wheel finds no platform on a machine without one and does not start; setting it first is all that is needed.
This file imports nothing of packager.
"""

if __name__ == "__main__":
    import vllm.platforms
    from vllm.platforms.cpu import CpuPlatform

    vllm.platforms._current_platform = CpuPlatform()

    from vllm.entrypoints.cli.main import main

    main()
