// What llama.cpp answers to prompts, without an adapter and with it: node ask.mjs MODULES BASE.gguf ADAPTER.gguf PROMPT ...
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const [modules, base, adapter, ...prompts] = process.argv.slice(2);
const package_ = createRequire(modules + "/").resolve("node-llama-cpp");
const {getLlama, LlamaCompletion} = await import(pathToFileURL(package_).href);
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: base});
for (const adapters of [[], [{filePath: adapter, scale: 1}]]) {
  const context = await model.createContext({contextSize: 256, lora: adapters.length ? {adapters} : undefined});
  for (const prompt of prompts) {
    const sequence = context.getSequence();
    const completion = new LlamaCompletion({contextSequence: sequence});
    const settings = {maxTokens: 8, temperature: 0, customStopTriggers: ["\n"]};
    const text = await completion.generateCompletion(prompt, settings);
    console.log(JSON.stringify({adapters: adapters.length, text: text.trim()}));
    sequence.dispose();
  }
  await context.dispose();
}
process.exit(0);
