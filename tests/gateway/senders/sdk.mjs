// Signs and verifies webhooks with the providers' own libraries. Reads a list of tasks as JSON from stdin, writes the list of
// their results to stdout:
//   {"do": "sign", scheme, secret, id, timestamp, body}   ->  the headers that the library makes, or null where it makes none
//   {"do": "verify", scheme, secret, headers, body}       ->  true or false

import { readFileSync } from "node:fs";

import { sign, verify } from "@octokit/webhooks-methods";
import "@shopify/shopify-api/adapters/node";
import { ApiVersion, shopifyApi } from "@shopify/shopify-api";
import { HashFormat, createSHA256HMAC } from "@shopify/shopify-api/runtime";
import bolt from "@slack/bolt";
import { Webhook } from "standardwebhooks";
import Stripe from "stripe";

const stripe = new Stripe("sk_test_unused");

/** True unless `check` throws, which is how most of these libraries refuse. */
const passes = async (check) => {
  try {
    return (await check()) !== false;
  } catch {
    return false;
  }
};

const schemes = {
  github: {
    sign: async ({ secret, body }) => ({ "X-Hub-Signature-256": await sign(secret, body) }),
    verify: ({ secret, headers, body }) => passes(() => verify(secret, body, headers["x-hub-signature-256"])),
  },
  shopify: {
    sign: async ({ secret, body }) => ({
      "X-Shopify-Hmac-Sha256": await createSHA256HMAC(secret, body, HashFormat.Base64),
    }),
    verify: async ({ secret, headers, body }) => {
      const shopify = shopifyApi({
        apiKey: "unused",
        apiSecretKey: secret,
        apiVersion: Object.values(ApiVersion).at(-1),
        hostName: "inbox.example",
        isEmbeddedApp: false,
        logger: { log: () => {} },
      });
      const rawRequest = { method: "POST", url: "/webhooks/shop", headers };
      return (await shopify.webhooks.validate({ rawBody: body, rawRequest })).valid;
    },
  },
  stripe: {
    sign: async ({ secret, timestamp, body }) => ({
      "Stripe-Signature": stripe.webhooks.generateTestHeaderString({ payload: body, secret, timestamp }),
    }),
    verify: ({ secret, headers, body }) =>
      passes(() => stripe.webhooks.constructEvent(body, headers["stripe-signature"], secret)),
  },
  slack: {
    // Bolt only verifies.
    sign: async () => null,
    verify: ({ secret, headers, body }) =>
      passes(() => {
        bolt.verifySlackRequest({ signingSecret: secret, body, headers });
      }),
  },
  standard: {
    sign: async ({ secret, id, timestamp, body }) => ({
      "Webhook-Id": id,
      "Webhook-Timestamp": String(timestamp),
      "Webhook-Signature": new Webhook(secret).sign(id, new Date(timestamp * 1000), body),
    }),
    verify: ({ secret, headers, body }) => passes(() => new Webhook(secret).verify(body, headers)),
  },
};

const tasks = JSON.parse(readFileSync(0, "utf8"));
const results = [];
for (const task of tasks) {
  results.push(await schemes[task.scheme][task.do](task));
}
process.stdout.write(JSON.stringify(results));
