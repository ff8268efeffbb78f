"""References for the engine's decoders: small random models, and what transformers makes of them on the CPU.

Usage: python3 causal.py OUT_DIR

Writes, for each family, a Hugging Face folder with seeded random weights, a byte-level tokenizer trained on a few lines
of text and a chat template, and `expected.json` beside it: logits, greedy continuations, token ids of hard strings,
rendered conversations. Nothing is downloaded.
"""

import json
import os
import sys

# Before the imports: the libraries read these when they are loaded.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_DISABLE_PROGRESS_BARS="1")

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

GROUPS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind; it's what dogs do.",
    "A machine that shows what it runs can be trusted with what it is told.",
    "def answer(question):\n    return {'text': question.strip(), 'n': 42}\n",
    "Größe, naïveté, Ελλάδα, Москва, 東京都, مرحبا, שלום, नमस्ते, 🙂🚀",
    "1 12 123 1234 12345 3.14159 1,000,000 0x1f",
] * 4
# Hard strings; the same are cut into tokens on both sides.
STRINGS = [
    "", " ", "  ", "\n", "\n\n \n", " a", "a ", "   three   spaces   ", "tab\tand\r\nlines\r\n\r\nend", "I'm WE'LL don'T it'S",
    "123456789 1234.5678e-9", "naïve Größe ǅ ß ſ", "e\u0301 vs \u00e9 \u1e9b\u0323", "日本語のテキスト、句読点。", "🙂🚀👩‍👩‍👧‍👦🇩🇪", "\u200b\u00a0\u3000x\u2028y",
    "नमस्ते दुनिया", "مرحبا بالعالم", "<|end|> in the <|begin|>text<|end|>", "<|end", "<think>\nhm\n</think>\n\nyes", "a\x00b\x01\x7f\x85",
    "((((((((((", "======\n======", "x" * 300, " " * 70 + "x", "\n" * 50 + " x", "½ Ⅷ ² ১২৩ 𝟙𝟚", "\ufffd \ud7ff \U0010ffff", "'s's 's ''S",
    " !?!\n\n x", "\u1100\u1161\u11a8 \uac01", "K \u212a \u017f's 'ſ",
]
TEMPLATE = """{%- if probe is defined %}
{{- probe.text is iterable }} {{ probe.map is iterable }} {{ probe.list is sequence }} {{ probe.text is sequence }} {{ probe.map is mapping }}
{{ probe.none }} {{ probe.flag }} {{ probe.list }} {{ probe.map }} {{ probe.float }} {{ probe.big }} {{ probe.missing }}|
{{ probe.text[1:3] }} {{ probe.text[-2:] }} {{ probe.list[-1] }} {{ probe.text[::-1] }} {{ probe.list[1:]|length }}
{{ probe.text.upper() }} {{ probe.text.title() }} {{ probe.text.replace('b', 'x') }} {{ probe.text.find('c') }} {{ 'b' in probe.text }}
{{ probe.map.items()|list|length }} {% for key, value in probe.map.items() %}{{ key }}={{ value|tojson }};{% endfor %}
{{ probe.map|tojson(indent=2) }} {{ probe.list|join(', ') }} {{ probe.text|length }} {{ probe.none is none }} {{ probe.text|default('d') }}
{{ probe.map.get('a') }} {{ probe.map.get('zz', 'none') }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ 2 ** 5 }} {{ 'n' ~ 3 }} {{ "%s-%s" | format('p', 4) }}
{{ (probe.list + [5])|length }} {{ probe.text.split('b')|length }} {{ ' x '.strip() }}|{{ 'xxabxx'.strip('x') }} {{ probe.list|first }} {{ probe.list|last }}
{{ probe.text.startswith('ab') }} {{ probe.text.endswith(('cd', 'xy')) }} {{ probe.map.keys()|list }} {{ probe.list|map('string')|join('+') }}
{{ [{'role': 'a', 'n': 1}, {'role': 'b', 'n': 2}]|selectattr('role', 'equalto', 'b')|map(attribute='n')|list }} {{ 'a' if probe.none else 'b' }}
{{ probe.text|capitalize }} {{ probe.text|safe }} {{ "it's" }} {{ ["it's", 'a"b'] }} {{ probe.float|int }} {{ probe.list|reject('equalto', 1)|list }}
{%- endif %}
{%- if tools %}
{{- '<|begin|>system\\n' }}
{%- if messages[0].role == 'system' %}
    {{- messages[0].content + '\\n\\n' }}
{%- endif %}
{{- "# Tools" }}
{%- for tool in tools %}
    {{- "\\n" }}
    {{- tool | tojson }}
{%- endfor %}
{{- "<|end|>\\n" }}
{%- elif messages[0]['role'] == 'system' %}
    {{- '<|begin|>system\\n' + messages[0]['content'] | trim + '<|end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1, seen=false) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' and not ns.seen %}
        {%- set ns.last = (messages|length - 1) - loop.index0 %}
        {%- set ns.seen = true %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- macro say(role, text) -%}
<|begin|>{{ role }}
{{ text }}<|end|>
{% endmacro -%}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == 'system' %}
        {%- if not loop.first %}{{ raise_exception('system message must come first') }}{% endif %}
    {%- elif message.role == 'user' %}
        {{- say('user', content) }}
    {%- elif message.role == 'assistant' %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|begin|>assistant\\n' }}{% generation %}{{ content.rstrip() }}{% endgeneration %}
        {%- for call in message.tool_calls or [] %}
            {%- set function = call.function if call.function else call %}
            {{- '\\n<tool_call>\\n{"name": "' ~ function.name ~ '", "arguments": ' }}
            {%- if function.arguments is string %}{{ function.arguments }}{% else %}{{ function.arguments | tojson }}{% endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|begin|>tool\\n' + content + '<|end|>\\n' }}
    {%- else %}
        {{- raise_exception('unknown role ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if strftime_now is defined and with_date is defined and with_date %}{{ strftime_now('%Y')|length }}{% endif %}
{%- if add_generation_prompt %}
    {{- '<|begin|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather <now> & \"here\" – ünïcode 🙂",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}, "days": {"type": "number", "maximum": 1.5e-07}}},
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"zone": "東京", "days": 2.0, "at": None, "on": [True, 10**15]}}}
CHATS = [
    {"messages": [{"role": "user", "content": "Hello"}]},
    {"messages": [{"role": "system", "content": "  Be brief.\n"}, {"role": "user", "content": " a\n\nb "}]},
    {"messages": [{"role": "user", "content": "x"}], "variables": {"enable_thinking": False}},
    {"messages": [{"role": "user", "content": "x"}], "variables": {"with_date": True}},
    {
        "messages": [
            {"role": "system", "content": "Use tools."}, {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "rain", "tool_call_id": "c1"},
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\nIt rains.  \n"}, {"role": "user", "content": "<|end|> & <b>"},
        ],
        "tools": [TOOL, TOOL],
    },
    {"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "late"}]},
    {
        "messages": [{"role": "user", "content": "x"}],
        "variables": {"probe": {
            "text": "abcd", "map": {"b": 1, "a": [None, True, 1.5], "é": "<&>'\""}, "list": [1, "two", 3.0, None, False],
            "none": None, "flag": True, "float": 1e-07, "big": 12345678901234567,
        }},
    },
    {"messages": [{"role": "robot", "content": "x"}]},
]
SPECIAL = ["<|end|>", "<|begin|>"]
THOUGHTS = ["<think>", "</think>"]


def tokenizer(digits, begin):
    """A byte-level tokenizer as Qwen's (one digit a word, NFC) or Llama 3's (three digits, a first token)."""
    made = Tokenizer(models.BPE(ignore_merges=begin))
    if not begin:
        made.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(GROUPS % digits), behavior="isolated", invert=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False))
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    made.add_tokens([AddedToken(text, special=False, normalized=False) for text in THOUGHTS])
    level = processors.ByteLevel(trim_offsets=False)
    if begin:
        first = processors.TemplateProcessing(single="<|begin|> $A", pair=None, special_tokens=[("<|begin|>", made.token_to_id("<|begin|>"))])
        made.post_processor = processors.Sequence([level, first])
    else:
        made.post_processor = level
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", bos_token="<|begin|>", chat_template=TEMPLATE)


def families(end):
    """Name, model, tokenizer settings, stored type, shard size."""
    common = dict(num_hidden_layers=2, hidden_size=48, intermediate_size=80, num_attention_heads=6, max_position_embeddings=192, initializer_range=0.25, eos_token_id=end)
    scaled = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    plain = {"rope_type": "default", "rope_theta": 500000.0}
    return [
        ("qwen3-f32", transformers.Qwen3ForCausalLM, transformers.Qwen3Config(vocab_size=440, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, **common), ("", False), torch.float32, "5GB"),
        ("llama-bf16", transformers.LlamaForCausalLM, transformers.LlamaConfig(vocab_size=440, num_key_value_heads=3, rope_parameters=scaled, **common), ("{1,3}", True), torch.bfloat16, "60KB"),
        ("llama-f16", transformers.LlamaForCausalLM, transformers.LlamaConfig(vocab_size=440, num_key_value_heads=6, rope_parameters=plain, **common), ("{1,3}", True), torch.float16, "5GB"),
    ]


def build(folder, kind, config, words, stored, shard):
    """Writes one folder and returns its model in single precision."""
    torch.manual_seed(7)
    model = kind(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.to(stored).save_pretrained(folder, max_shard_size=shard)
    words.save_pretrained(folder)
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def greedy(model, ids, count):
    """A greedy continuation, cache and all."""
    # Without a mask, transformers takes any padding token in the prompt for padding.
    prompt = torch.tensor([ids])
    out = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count, do_sample=False, pad_token_id=0)
    return out[0, len(ids):].tolist()


def render(words, chat):
    """The text of a conversation, or none where the template refuses it."""
    try:
        extra = dict(chat.get("variables", {}))
        return words.apply_chat_template(chat["messages"], tools=chat.get("tools"), add_generation_prompt=True, tokenize=False, **extra)
    except Exception as error:  # jinja2's own classes are not imported here
        if "must come first" in str(error) or "unknown role" in str(error):
            return None
        raise


def expect(model, words):
    """Everything that the engine is compared with."""
    generator = torch.Generator().manual_seed(11)
    prompts = [torch.randint(0, 400, (n,), generator=generator).tolist() for n in (1, 2, 5, 15, 16, 17, 33, 64, 100)]
    with torch.no_grad():
        logits = [model(torch.tensor([ids])).logits[0, -1].tolist() for ids in prompts]
        answers = [greedy(model, ids, 40) for ids in prompts]
    return {
        "prompts": prompts,
        "logits": logits,
        "answers": answers,
        "texts": [words.decode(ids, skip_special_tokens=True) for ids in answers],
        "strings": STRINGS,
        "plain": [words(text, add_special_tokens=False)["input_ids"] for text in STRINGS],
        "framed": [words(text)["input_ids"] for text in STRINGS],
        "decoded": [words.decode(words(text)["input_ids"], skip_special_tokens=True) for text in STRINGS],
        "chats": CHATS,
        "rendered": [render(words, chat) for chat in CHATS],
    }


def main(out):
    for name, kind, config, style, stored, shard in families(end=0):
        words = tokenizer(*style)
        config.eos_token_id = words.eos_token_id
        folder = os.path.join(out, name)
        model = build(folder, kind, config, words, stored, shard)
        with open(os.path.join(folder, "expected.json"), "w", encoding="utf-8") as file:
            json.dump(expect(model, words), file)
    print(f"{out}: small models computed with transformers {transformers.__version__}, torch {torch.__version__}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
