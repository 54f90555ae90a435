"""The questions that the engine is asked."""

QUESTIONS = {"text": "count the red dots ?", "image": "color ?"}


def prompt_of(processor, kind: str) -> str:
    """A question in the chat template, with or without an image."""
    content = [{"type": "text", "text": QUESTIONS[kind]}]
    if kind == "image":
        content.insert(0, {"type": "image"})
    messages = [{"role": "user", "content": content}]
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
