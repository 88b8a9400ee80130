// Run by node: `browser.mjs URL CHROMIUM [SCREENSHOT]`; uses /docs as a person does and prints what happened as JSON.
// Without a screenshot it only looks at what is there.
import { createRequire } from "node:module";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const require = createRequire(new URL("../tools/package.json", import.meta.url));
const { chromium } = require("playwright-core");

const [url, executablePath, screenshot] = process.argv.slice(2);
const LINE = Buffer.from('{"custom_id": "from the page", "body": {}}\n');
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
  const uploaded = await execute(page, "uploadfile", (block) =>
    block.locator("input[type=file]").setInputFiles({ name: "requests.jsonl", mimeType: "application/jsonl", buffer: LINE }),
  );
  const downloaded = await execute(page, "downloadfile", (block) =>
    block.locator('tr[data-param-name="file-id"] input').fill(JSON.parse(uploaded.body).id),
  );
  await page.screenshot({ path: screenshot, fullPage: true });
  const violations = await page.evaluate("violations");
  const problems = await onAPhone(page, "/problems#upstream-answer-too-large", screenshot.replace(".png", "-problems.png"));
  violations.push(...(await page.evaluate("violations")));
  return { operations, created, listed, uploaded, downloaded, problems, violations, complaints, elsewhere };
}

// How a page looks on a phone, in the dark: by how many pixels it is too wide, where the place is that the address names, and its styles.
async function onAPhone(page, path, screenshot) {
  await page.setViewportSize({ width: 360, height: 640 });
  await page.emulateMedia({ colorScheme: "dark" });
  await page.goto(url + path);
  await page.screenshot({ path: screenshot });
  return page.evaluate(() => ({
    tooWide: document.documentElement.scrollWidth - innerWidth,
    top: document.querySelector(":target").getBoundingClientRect().top,
    schemes: getComputedStyle(document.body).colorScheme,
    text: getComputedStyle(document.body).color,
    width: innerWidth,
  }));
}

// Opens the operation and executes it as it stands there, with its example, if it has a body; `fill` changes something before.
async function execute(page, operation, fill = () => {}) {
  const block = page.locator(`.opblock[id$="${operation}"]`);
  await block.locator(".opblock-summary-control").click();
  await fill(block);
  await block.locator("button.execute").click();
  const answer = block.locator(".live-responses-table .response").first();
  await answer.waitFor();
  const status = await answer.locator(".response-col_status").innerText();
  const link = answer.getByText("Download file");
  const shown = answer.locator(".highlight-code code").first();
  await shown.or(link).waitFor();
  const body = (await link.count()) ? await saved(page, link) : await shown.innerText();
  return { status: status.trim(), body };
}

// What the file has in it that a click on the link saves.
async function saved(page, link) {
  const [download] = await Promise.all([page.waitForEvent("download"), link.click()]);
  return readFileSync(await download.path(), "utf8");
}
