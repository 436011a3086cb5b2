// kafkajs: CLIENT BOOTSTRAP PREFIX RECORDS; a line "ok CASE" or "FAIL CASE: reason" for each codec. Its consumer always has
// a group, so that the driver reads these topics back with kcat. CLIENT group BOOTSTRAP TOPIC GROUP: a member of the group.
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require("kafkajs");
CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");

const [prefix, records] = [process.argv[3], Number(process.argv[4])];
const bootstrap = process.argv[2] === "group" ? process.argv[3] : process.argv[2];
const partitions = 3;
const codecs = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy };
const kafka = new Kafka({ clientId: "kafkajs", brokers: [bootstrap], logLevel: logLevel.NOTHING });

const message = (i) => ({
  partition: i % partitions,
  key: `key ${i}`,
  value: `value ${i} `.repeat(1 + (i % 7)),
  headers: { n: [String(i), "again"] },
});

async function roundTrip(topic, compression) {
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic, numPartitions: partitions, replicationFactor: 1 }] });
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  let following = new Array(partitions).fill(0);
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
  for (const { partition, high } of await admin.fetchTopicOffsets(topic)) {
    if (Number(high) !== following[partition]) throw new Error(`partition ${partition} ends at ${high}, not ${following[partition]}`);
  }
  await admin.disconnect();
}

// A member of a group: tells what it is assigned, reads and commits, and leaves when standard input ends.
async function member(topic, groupId) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 6000, heartbeatInterval: 500, maxWaitTimeInMs: 200 });
  const tell = (...words) => process.stdout.write(words.join(" ") + "\n");
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
      for (const m of batch.messages) tell("read", batch.partition, m.offset, m.key.toString());
      await consumer.commitOffsets([{ topic, partition: batch.partition, offset: (BigInt(batch.lastOffset()) + 1n).toString() }]);
      tell("committed");
    },
  });
}

(async () => {
  if (process.argv[2] === "group") return member(process.argv[4], process.argv[5]);
  let failed = 0;
  for (const [name, compression] of Object.entries(codecs)) {
    try {
      await roundTrip(`${prefix}-${name}`, compression);
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL ${name}: ${error}`);
    }
  }
  process.exit(failed ? 1 : 0);
})();
