"""OpenAI's own client asks a server of ours: client.py <base URL>. Prints what it got as JSON."""

import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=60)
question = {"model": "tiny", "messages": [{"role": "user", "content": "pack tea"}], "max_tokens": 9, "seed": 5, "n": 2, "logprobs": True}
got = {"models": [m.id for m in client.models.list()], "model": client.models.retrieve("tiny").id}

chat = client.chat.completions.create(**question)
got["chat"] = [c.message.content for c in chat.choices]
got["logprobs"] = [[t.logprob for t in c.logprobs.content] for c in chat.choices]
got["reasons"] = [c.finish_reason for c in chat.choices]
got["usage"] = chat.usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"})

got["stream"], got["stream logprobs"], got["stream reasons"], got["stream usage"] = ["", ""], [[], []], ["", ""], None
for chunk in client.chat.completions.create(**question, stream=True, stream_options={"include_usage": True}):
    if chunk.usage:
        got["stream usage"] = chunk.usage.model_dump(include=set(got["usage"]))
    for c in chunk.choices:
        got["stream"][c.index] += c.delta.content or ""
        got["stream logprobs"][c.index] += [t.logprob for t in c.logprobs.content or []] if c.logprobs else []
        got["stream reasons"][c.index] = c.finish_reason or ""

with client.chat.completions.stream(**question) as stream:  # the client puts the pieces together
    for _ in stream:
        pass
    got["put together"] = [[c.message.role, c.message.content] for c in stream.current_completion_snapshot.choices]

parts = [{"type": "text", "text": "pack"}, {"type": "text", "text": " tea"}]
got["parts"] = [c.message.content for c in client.chat.completions.create(**question | {"messages": [{"role": "user", "content": parts}]}).choices]

plain = {"model": "tiny", "prompt": "pack", "max_tokens": 5, "temperature": 0}
got["completion"] = client.completions.create(**plain).choices[0].text
got["completion stream"] = "".join(c.choices[0].text for c in client.completions.create(**plain, stream=True))
got["prompts"] = [[c.index, c.text] for c in client.completions.create(**plain | {"prompt": ["pack", "pack"]}).choices]

try:
    client.models.retrieve("other")
except openai.NotFoundError as e:
    got["not found"] = e.code
try:
    client.chat.completions.create(**question | {"max_tokens": 5000})
except openai.BadRequestError as e:
    got["error"] = [e.code, e.type, e.message]
print(json.dumps(got))
