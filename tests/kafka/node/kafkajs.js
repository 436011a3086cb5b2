// kafkajs: CLIENT BOOTSTRAP PREFIX RECORDS; a line "ok CASE" or "FAIL CASE: reason" for each codec.
// It has no consumer without a group; until the broker has groups, the driver reads these topics back with kcat.
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require("kafkajs");
CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");

const [bootstrap, prefix, records] = [process.argv[2], process.argv[3], Number(process.argv[4])];
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

(async () => {
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
