"""CausalCine for ComfyUI: multi-shot films, made chunk by chunk. Everything is imported when ComfyUI asks for it."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import CausalCineExtension

    return CausalCineExtension()
