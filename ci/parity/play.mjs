// Plays a transcript of the local chain on TON's official emulator (@ton/sandbox) and compares every transaction:
// exit codes, actions, gas, fees, messages sent; what get-methods say; and what everybody has left.
//
//   node play.mjs TRANSCRIPT.json        NODE_MODULES names another node_modules folder
//
// Prints one line a scenario and a line of JSON; ends with 1 if anything differs.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const modules = process.env.NODE_MODULES ?? join(dirname(fileURLToPath(import.meta.url)), "node_modules");
const load = createRequire(join(modules, "any.js"));
const { Address, Cell } = load("@ton/core");
const { Blockchain, createShardAccount } = load("@ton/sandbox");

const transcript = JSON.parse(readFileSync(process.argv[2], "utf8"));
const differences = [];

function compare(where, what, ours, theirs) {
  if (String(ours) !== String(theirs)) {
    differences.push(`${where}: ${what}: local chain ${ours}, emulator ${theirs}`);
  }
}

function summary(transaction) {
  const { computePhase: compute, actionPhase: action, aborted } = transaction.description;
  const ran = compute.type === "vm";
  return {
    exit: ran ? compute.exitCode : null,
    action: action ? action.resultCode : null,
    aborted,
    gas: ran ? compute.gasUsed : 0n,
    fees: transaction.totalFees.coins,
    out: transaction.outMessagesCount,
  };
}

// The emulator's wrapper begins an unknown account as one that is there and takes no storage, which costs it less later
// than TON would. Here an account that nobody made is not there.
async function begin({ first, accounts }) {
  const chain = await Blockchain.create({ config: Cell.fromBase64(transcript.config) });
  chain.now = first.time;
  for (const address of Object.keys(accounts)) {
    await chain.setShardAccount(Address.parse(address), { account: null, lastTransactionHash: 0n, lastTransactionLt: 0n });
  }
  const [code, data] = [Cell.fromBase64(first.code), Cell.fromBase64(first.data)];
  const address = Address.parse(first.address);
  await chain.setShardAccount(address, createShardAccount({ address, code, data, balance: BigInt(first.balance), workchain: 0 }));
  return chain;
}

async function play(scenario) {
  const chain = await begin(scenario);
  const seen = new Map();
  for (const [number, event] of scenario.events.entries()) {
    chain.now = event.now;
    if (event.message) {
      const { transactions } = await chain.sendMessage(Cell.fromBase64(event.message));
      for (const transaction of transactions) {
        const address = `0:${transaction.address.toString(16).padStart(64, "0")}`;
        seen.set(address, [...(seen.get(address) ?? []), summary(transaction)]);
      }
    } else {
      const args = event.args.map((value) => ({ type: "int", value: BigInt(value) }));
      const result = await chain.runGetMethod(Address.parse(event.of), event.get, args);
      event.is.forEach((ours, place) => {
        const value = result.stack[event.skip + place];
        compare(`${scenario.name}, event ${number}`, `${event.get} value ${event.skip + place}`, ours, value.value);
      });
    }
  }
  return { chain, seen };
}

let count = 0;
let gas = 0n;
for (const scenario of transcript.scenarios) {
  const before = differences.length;
  const { chain, seen } = await play(scenario);
  for (const [address, account] of Object.entries(scenario.accounts)) {
    const theirs = seen.get(address) ?? [];
    compare(`${scenario.name}, ${address}`, "transactions", account.transactions.length, theirs.length);
    account.transactions.forEach((ours, place) => {
      for (const what of theirs[place] ? Object.keys(ours) : []) {
        compare(`${scenario.name}, ${address}, transaction ${place}`, what, ours[what], theirs[place][what]);
      }
      count += 1;
      gas += BigInt(ours.gas);
    });
    const left = (await chain.getContract(Address.parse(address))).balance;
    compare(`${scenario.name}, ${address}`, "balance", account.balance, left);
  }
  console.log(`${differences.length === before ? "equal" : "DIFFERENT"}  ${scenario.name}`);
}
differences.forEach((line) => console.error(line));
console.log(JSON.stringify({ scenarios: transcript.scenarios.length, transactions: count, gas: String(gas), differences: differences.length }));
process.exit(differences.length === 0 && count > 0 ? 0 : 1);
