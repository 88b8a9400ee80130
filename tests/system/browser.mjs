// Run by node: `browser.mjs URL CHROMIUM [SCREENSHOT]`; uses /docs as a person does and prints what happened as JSON.
// Without a screenshot it only looks at what is there.
import { createRequire } from "node:module";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const require = createRequire(new URL("../tools/package.json", import.meta.url));
const { chromium } = require("playwright-core");

const [url, executablePath, screenshot] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), "docs-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  viewport: { width: 1200, height: 1600 },
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
try {
  console.log(JSON.stringify(await visit(await browser.newPage())));
} finally {
  await browser.close();
  rmSync(profile, { recursive: true, force: true });
}

async function visit(page) {
  const complaints = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("requestfailed", (request) => complaints.push(`${request.url()} failed`));
  const elsewhere = [];
  page.on("request", (request) => request.url().startsWith(url) || request.url().startsWith("data:") || elsewhere.push(request.url()));
  await page.addInitScript(() => {
    globalThis.violations = [];
    document.addEventListener("securitypolicyviolation", (event) =>
      globalThis.violations.push(`${event.violatedDirective} ${event.blockedURI}`),
    );
  });

  await page.goto(`${url}/docs`);
  await page.waitForSelector(".opblock");
  const operations = await page.$$eval(".opblock-summary", (rows) =>
    rows.map((row) => `${row.querySelector(".opblock-summary-method").innerText} ${row.querySelector(".opblock-summary-path").innerText.replaceAll("\u200b", "")}`),
  );
  if (!screenshot) return { operations };
  const created = await execute(page, "createbatchjob");
  const listed = await execute(page, "listbatchjobs");
  await page.screenshot({ path: screenshot, fullPage: true });
  return { operations, created, listed, violations: await page.evaluate("violations"), complaints, elsewhere };
}

// Opens the operation and executes it as it stands there: with its example, if it has a body.
async function execute(page, operation) {
  const block = page.locator(`.opblock[id$="${operation}"]`);
  await block.locator(".opblock-summary-control").click();
  await block.locator("button.execute").click();
  const answer = block.locator(".live-responses-table .response").first();
  await answer.waitFor();
  const status = await answer.locator(".response-col_status").innerText();
  const body = await answer.locator(".highlight-code code").first().innerText();
  return { status: status.trim(), body };
}
