// Asks an OpenAI-compatible endpoint with OpenAI's own JavaScript client, unmodified: `ask.mjs MODULES (COMMAND URL KEY)...`.
//
// Prints one JSON list: what each command came to, or the class, status and code of the error that the client threw.
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [modules, ...given] = process.argv.slice(2);
const OpenAI = createRequire(join(modules, 'here.js'))('openai');
const CHAT = { model: 'little', messages: [{ role: 'user', content: 'a secret question' }], max_tokens: 16 };

const commands = {
  async models(client) {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return ids.sort();
  },
  // The client asks for base64 by itself and decodes it; `float` is asked for by name.
  async embed(client) {
    const first = await client.embeddings.create({ model: 'vectors', input: ['a', 'b'] });
    const floats = await client.embeddings.create({ model: 'vectors', input: 'a', encoding_format: 'float' });
    return [Array.from(first.data[1].embedding), floats.data[0].embedding, first.usage.prompt_tokens];
  },
  async chat(client) {
    const { data, response } = await client.chat.completions.create(CHAT).withResponse();
    const headers = [response.headers.get('chrysalis-charged'), !!response.headers.get('chrysalis-receipt')];
    return [data.choices[0].message.content, data.usage.total_tokens, ...headers];
  },
  async complete(client) {
    return (await client.completions.create({ model: 'little', prompt: 'x', max_tokens: 8 })).choices[0].text;
  },
  async stream(client) {
    const events = await client.chat.completions.create({ ...CHAT, stream: true, stream_options: { include_usage: true } });
    let text = '', tokens = null;
    for await (const event of events) {
      for (const choice of event.choices) text += choice.delta.content ?? '';
      tokens = event.usage?.total_tokens ?? tokens;
    }
    return [text, tokens];
  },
  async cancel(client) {
    const body = { ...CHAT, messages: [{ role: 'user', content: 'never stop' }], stream: true };
    const words = [];
    for await (const event of await client.chat.completions.create(body)) {
      words.push(event.choices[0].delta.content);
      // Leaving the loop aborts the request.
      if (words.length === 3) break;
    }
    return words;
  },
  async not_found(client) {
    return (await client.chat.completions.create({ ...CHAT, model: 'huge' })).id;
  },
  async bad_request(client) {
    return (await client.chat.completions.create({ ...CHAT, n: 1000 })).id;
  },
};

async function run(command, baseURL, apiKey) {
  const client = new OpenAI({ baseURL, apiKey, timeout: 60_000 });
  try {
    return await commands[command](client);
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    return { error: error.constructor.name, status: error.status, code: error.code };
  }
}

const said = [];
for (let i = 0; i + 2 < given.length; i += 3) said.push(await run(given[i], given[i + 1], given[i + 2]));
console.log(JSON.stringify(said));
