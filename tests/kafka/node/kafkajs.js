// kafkajs: CLIENT BOOTSTRAP PREFIX RECORDS; a line "ok CASE" or "FAIL CASE: reason" for each codec. CLIENT group BOOTSTRAP
// TOPIC GROUP: a member of the group. CLIENT produce BOOTSTRAP TOPIC CODEC: sends what it is asked to. tests/README.md says
// what a program is told and tells.
const readline = require("readline");
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require("kafkajs");
const lz4 = require("lz4js");
const xxh32 = require("lz4js/xxh32.js");
const zstd = require("@bokuweb/zstd-wasm");

// kafkajs brings gzip only.
CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");
// lz4js leaves out the flag that says that blocks are independent, as they are up to 4 MiB. Kafka's Java client does not read
// frames without it, and brokers refuse them. The header's checksum covers the flag.
function withIndependentBlocks(frame) {
  frame[4] |= 0x20;
  frame[6] = xxh32.hash(0, frame, 4, 2) >> 8;
  return frame;
}

CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => withIndependentBlocks(Buffer.from(lz4.compress(encoder.buffer))),
  decompress: async (buffer) => Buffer.from(lz4.decompress(buffer)),
});
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from(zstd.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(zstd.decompress(buffer)),
});

const words = process.argv.slice(2);
const verb = ["group", "produce"].includes(words[0]) ? words.shift() : "round trip";
const partitions = 3;
const codecs = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy, lz4: CompressionTypes.LZ4, zstd: CompressionTypes.ZSTD };
// Its own limits would end a producer or a member that does not find the broker for some seconds.
const kafka = new Kafka({ clientId: "kafkajs", brokers: [words[0]], logLevel: logLevel.NOTHING, retry: { initialRetryTime: 100, maxRetryTime: 1000, retries: 200 } });
const tell = (...said) => process.stdout.write(said.join(" ") + "\n");

const key = (i) => `key ${i}`;
const value = (i) => `value ${i} `.repeat(1 + (i % 7));
const message = (i) => ({ partition: i % partitions, key: key(i), value: value(i), headers: { n: [String(i), "again"] } });

async function produce(topic, compression, records) {
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  const following = new Array(partitions).fill(0);
  for (let from = 0; from < records; from += 500) {
    const messages = [];
    for (let i = from; i < Math.min(from + 500, records); i++) messages.push(message(i));
    for (const place of await producer.send({ topic, acks: -1, compression, messages })) {
      const wanted = following[place.partition];
      if (Number(place.baseOffset) !== wanted) throw new Error(`partition ${place.partition}: acknowledged at ${place.baseOffset}, not ${wanted}`);
      following[place.partition] += messages.filter((m) => m.partition === place.partition).length;
    }
  }
  await producer.disconnect();
  return following;
}

// Fails unless the message is what was written at its place.
function expect(partition, following, m) {
  const i = following * partitions + partition;
  const headers = [m.headers.n].flat().map(String);
  const same = Number(m.offset) === following && String(m.key) === key(i) && String(m.value) === value(i) && headers.join() === `${i},again`;
  if (!same) throw new Error(`partition ${partition}: offset ${m.offset} holds ${m.key} with ${headers}, wanted record ${i}`);
}

// Its consumer always has a group.
async function consume(topic, records) {
  const consumer = kafka.consumer({ groupId: topic, maxWaitTimeInMs: 100 });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  const following = new Array(partitions).fill(0);
  try {
    await new Promise((done, failed) => {
      setTimeout(() => failed(new Error(`only ${following} records in 20 s`)), 20_000).unref();
      const eachMessage = async ({ partition, message: found }) => {
        try {
          expect(partition, following[partition]++, found);
        } catch (error) {
          failed(error);
        }
        if (following.reduce((a, b) => a + b) === records) done();
      };
      consumer.run({ eachMessage }).catch(failed);
    });
  } finally {
    await consumer.disconnect();
  }
}

async function roundTrip(topic, compression, records) {
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic, numPartitions: partitions, replicationFactor: 1 }] });
  const ends = await produce(topic, compression, records);
  for (const { partition, high } of await admin.fetchTopicOffsets(topic)) {
    if (Number(high) !== ends[partition]) throw new Error(`partition ${partition} ends at ${high}, not ${ends[partition]}`);
  }
  await admin.disconnect();
  await consume(topic, records);
}

async function roundTrips(prefix, records) {
  let failed = 0;
  for (const [name, compression] of Object.entries(codecs)) {
    try {
      await roundTrip(`${prefix}-${name}`, compression, records);
      tell("ok", name);
    } catch (error) {
      failed += 1;
      tell("FAIL", `${name}:`, error);
    }
  }
  process.exitCode = failed ? 1 : 0;
}

// A member of a group: tells what it is assigned, reads and commits, and leaves when standard input ends.
async function member(topic, groupId) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 6000, heartbeatInterval: 500, maxWaitTimeInMs: 200 });
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => tell("assigned", ...(payload.memberAssignment[topic] || [])));
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  process.stdin.resume();
  process.stdin.on("end", async () => {
    await consumer.disconnect();
    process.exit(0);
  });
  await consumer.run({
    autoCommit: false,
    eachBatch: async ({ batch }) => {
      for (const m of batch.messages) tell("read", batch.partition, m.offset, m.key);
      const offset = (BigInt(batch.lastOffset()) + 1n).toString();
      await consumer.commitOffsets([{ topic, partition: batch.partition, offset }]);
      tell("committed", batch.partition, offset);
    },
  });
}

// Sends what standard input asks for, in the order in which it asks, and tells what was acknowledged, until it ends.
async function produceAsked(topic, compression) {
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  let waiting = [];
  let sending = Promise.resolve();
  const send = async () => {
    const numbers = waiting.splice(0);
    if (numbers.length === 0) return;
    const messages = numbers.map(([partition, i]) => ({ partition, key: key(i), value: value(i) }));
    try {
      const places = await producer.send({ topic, acks: -1, compression, messages });
      const next = new Map(places.map((place) => [place.partition, BigInt(place.baseOffset)]));
      for (const [partition, i] of numbers) {
        tell("acked", partition, next.get(partition), i);
        next.set(partition, next.get(partition) + 1n);
      }
    } catch (error) {
      for (const [, i] of numbers) tell("refused", i, error);
    }
  };
  for await (const line of readline.createInterface({ input: process.stdin })) {
    waiting.push(line.split(" ").map(Number));
    sending = sending.then(send);
  }
  await sending;
  await producer.disconnect();
}

// When a connection breaks, requests that nobody waits for any more fail in kafkajs; by Node's default that ends the process.
process.on("unhandledRejection", (error) => {
  if (!error.retriable) throw error;
});

(async () => {
  await zstd.init();
  if (verb === "group") return member(words[1], words[2]);
  if (verb === "produce") return produceAsked(words[1], codecs[words[2]]);
  return roundTrips(words[1], Number(words[2]));
})();
