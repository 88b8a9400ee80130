// Run by node: `typescript_client.mjs URL FAULT...`; prints what happened as JSON. Twin of python_client.py.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(new URL("../../tools/package.json", import.meta.url));
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const { Mistral } = await load("@mistralai/mistralai");
const { SDKError } = await load("@mistralai/mistralai/models/errors");

const UNKNOWN_ID = "00000000-0000-4000-8000-000000000000";
const CHAT = { messages: [{ role: "user", content: "Hello" }] };

const [url, ...faults] = process.argv.slice(2);
const client = new Mistral({ apiKey: "the gateway's clients need no key of Mistral's", serverURL: url });
const { jobs } = client.batch;

async function life() {
  const created = await jobs.create({
    endpoint: "/v1/chat/completions",
    model: "mistral-small-latest",
    requests: [{ customId: "a", body: CHAT }, { customId: "b", body: CHAT }],
    metadata: { made: "by the SDK" },
    timeoutHours: 48,
  });
  const got = await jobs.get({ jobId: created.id });
  const cancelled = await jobs.cancel({ jobId: created.id });
  return {
    created: [created.status, created.model, created.metadata],
    same: got.id === created.id && cancelled.id === created.id,
    cancelled: cancelled.status,
    listed: (await jobs.list()).data.some((job) => job.id === created.id),
    inline: await inline(),
    waited: await waited(created.id),
  };
}

async function waited(underWay) {
  const [done] = (await jobs.list({ metadata: { name: "half-broken" } })).data;
  const waits = [[done.id, "wait=45"], [underWay, "wait=1"]];
  const got = waits.map(([jobId, wait]) => jobs.get({ jobId }, { headers: { Prefer: wait } }));
  return (await Promise.all(got)).map((job) => job.status);
}

async function inline() {
  const [done] = (await jobs.list({ metadata: { name: "half-broken" } })).data;
  const plain = await jobs.get({ jobId: done.id });
  const full = await jobs.get({ jobId: done.id, inline: true });
  return {
    without: plain.outputs ?? null,
    results: full.outputs.length,
    answered: full.outputs.filter((line) => line.error === null).length,
  };
}

async function filters() {
  const named = async (options) => (await jobs.list(options)).data.map((job) => job.metadata.name ?? null);
  const aware = new Date(Date.now() - 24 * 3600 * 1000);
  return {
    "page, page_size": await named({ page: 1, pageSize: 3, createdAfter: aware, orderBy: "created" }),
    model: await named({ model: "mistral-embed" }),
    agent_id: await named({ agentId: "ag:1 & more" }),
    metadata: await named({ metadata: { team: "support" } }),
    "metadata of two": await named({ metadata: { team: "support", name: "labels" } }),
    "created_after aware": await named({ createdAfter: aware, metadata: { team: "web" } }),
    created_by_me: await named({ createdByMe: true, metadata: { team: "support" } }),
    status: await named({ status: ["FAILED", "TIMEOUT_EXCEEDED"] }),
    order_by: await named({ orderBy: "created", metadata: { team: "web" } }),
    total: (await jobs.list({ pageSize: 1, status: ["SUCCESS"] })).total,
  };
}

async function filesLife() {
  const lines = [0, 1, 2].map((number) => JSON.stringify({ custom_id: String(number), body: CHAT }));
  const content = lines.join("\n");
  const { files } = client;
  const made = await files.upload({ file: new File([content], "été 1.jsonl"), purpose: "batch" });
  const got = await files.retrieve({ fileId: made.id });
  const read = await new Response(await files.download({ fileId: made.id })).text();
  const listed = (await files.list({ pageSize: 10, search: "été" })).data;
  const gone = await files.delete({ fileId: made.id });
  return {
    uploaded: [made.filename, made.purpose, made.sizeBytes === content.length, made.numLines],
    retrieved: [got.id === made.id, got.filename, got.deleted],
    downloaded: read === content,
    listed: listed.length === 1 && listed[0].id === made.id,
    deleted: [gone.id === made.id, gone.deleted],
    left: (await files.list({ search: "été" })).data.length,
  };
}

async function failures() {
  const status = async (call) => {
    try {
      await call();
    } catch (error) {
      return error instanceof SDKError ? [error.statusCode, JSON.parse(error.body).source] : String(error);
    }
    return "no SDKError";
  };
  const upload = (line, purpose = "batch") =>
    status(() => client.files.upload({ file: { fileName: "a.jsonl", content: new Blob([line]) }, purpose }));
  const found = {
    "contract broken": await status(() => jobs.create({ endpoint: "/v1/nonsense", model: "m" })),
    "no uuid": await status(() => jobs.get({ jobId: "1" })),
    "unknown job": await status(() => jobs.get({ jobId: UNKNOWN_ID })),
    "unknown job cancelled": await status(() => jobs.cancel({ jobId: UNKNOWN_ID })),
    "payment required": await status(() =>
      jobs.create({ endpoint: "/v1/chat/completions", model: "m", requests: Array(6).fill({ body: CHAT }) }),
    ),
    "job deleted": await status(() => jobs.delete({ jobId: UNKNOWN_ID })),
    "signed URL": await status(() => client.files.getSignedUrl({ fileId: UNKNOWN_ID })),
    "unknown file": await status(() => client.files.retrieve({ fileId: UNKNOWN_ID })),
    "unknown file downloaded": await status(() => client.files.download({ fileId: UNKNOWN_ID })),
    "bad line uploaded": await upload('{"custom_id": "a"}'),
    "other purpose uploaded": await upload('{"custom_id": "a", "body": {}}', "fine-tune"),
  };
  for (const fault of faults) found[fault] = await status(() => jobs.list({ metadata: { fault } }));
  return found;
}

// In the Python SDK's spelling.
const calls = (part, name) =>
  Object.getOwnPropertyNames(Object.getPrototypeOf(part))
    .filter((each) => each !== "constructor")
    .map((each) => `${name}.${each.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}`);

const report = {
  life: await life(),
  filters: await filters(),
  failures: await failures(),
  files: await filesLife(),
  calls: [...calls(jobs, "batch.jobs"), ...calls(client.files, "files")],
};
console.log(JSON.stringify(report));
