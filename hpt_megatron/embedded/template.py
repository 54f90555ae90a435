"""The chat template of the tiny model: what a conversation looks like to it, the same text as Qwen2.5-VL makes.

Invariants:
    1. Without a system message first, the default one is put in front.
    2. Content is a text, or a list of parts: each image becomes one `<|image_pad|>` between the marks of vision, each
       video one `<|video_pad|>`; the processor repeats it as often as there are visual tokens.
    3. Every tag trims its own white space, so the result does not depend on how the reader sets up Jinja.
"""

SYSTEM = "You are a helpful assistant."

PART = """
{%- macro part(item) -%}
    {%- if item is string -%}
        {{- item -}}
    {%- elif item.type == 'image' or item.type == 'image_url' or 'image' in item or 'image_url' in item -%}
        {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
    {%- elif item.type == 'video' or 'video' in item -%}
        {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
    {%- else -%}
        {{- item.text -}}
    {%- endif -%}
{%- endmacro -%}
"""

TURNS = """
{%- if not messages or messages[0].role != 'system' -%}
    {{- '<|im_start|>system\\nSYSTEM<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {{- '<|im_start|>' ~ message.role ~ '\\n' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for item in message.content -%}
            {{- part(item) -}}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

CHAT_TEMPLATE = (PART + TURNS).strip().replace("SYSTEM", SYSTEM)
