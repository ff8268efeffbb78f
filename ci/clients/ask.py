"""Asks an OpenAI-compatible endpoint with OpenAI's own Python client, unmodified: `ask.py (COMMAND URL KEY)...`.

Prints one JSON list: what each command came to, or the class, status and code of the error that the client raised.
"""

import json
import sys

import openai

CHAT = {"model": "little", "messages": [{"role": "user", "content": "a secret question"}], "max_tokens": 16}


def models(client):
    return sorted(model.id for model in client.models.list())


def embed(client):
    # The client asks for base64 by itself and decodes it; `float` is asked for by name.
    default = client.embeddings.create(model="vectors", input=["a", "b"])
    floats = client.embeddings.create(model="vectors", input="a", encoding_format="float")
    return [list(default.data[1].embedding), floats.data[0].embedding, default.usage.prompt_tokens]


def chat(client):
    raw = client.chat.completions.with_raw_response.create(**CHAT)
    answer = raw.parse()
    headers = [raw.headers.get("chrysalis-charged"), bool(raw.headers.get("chrysalis-receipt"))]
    return [answer.choices[0].message.content, answer.usage.total_tokens, *headers]


def complete(client):
    return client.completions.create(model="little", prompt="x", max_tokens=8).choices[0].text


def stream(client):
    events = client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
    text, tokens = "", None
    for event in events:
        text += "".join(choice.delta.content or "" for choice in event.choices)
        tokens = event.usage.total_tokens if event.usage else tokens
    return [text, tokens]


def cancel(client):
    body = {**CHAT, "messages": [{"role": "user", "content": "never stop"}]}
    events = client.chat.completions.create(**body, stream=True)
    words = [next(events).choices[0].delta.content for _ in range(3)]
    events.close()
    return words


def not_found(client):
    return client.chat.completions.create(**{**CHAT, "model": "huge"}).id


def bad_request(client):
    return client.chat.completions.create(**CHAT, n=1000).id


COMMANDS = {f.__name__: f for f in (models, embed, chat, complete, stream, cancel, not_found, bad_request)}


def run(command, url, key):
    client = openai.OpenAI(base_url=url, api_key=key, timeout=60)
    try:
        return COMMANDS[command](client)
    except openai.APIStatusError as error:
        return {"error": type(error).__name__, "status": error.status_code, "code": error.code}


arguments = iter(sys.argv[1:])
print(json.dumps([run(*triple) for triple in zip(arguments, arguments, arguments, strict=True)]))
