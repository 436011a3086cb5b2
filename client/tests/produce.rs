//! The producer against a real broker.

mod support;

use std::time::Duration;

use futures::StreamExt;
use millstream_client::{
    ClientConfig, Cluster, Codec,
    consumer::{ConsumedRecord, Consumer, ConsumerConfig, Start},
    producer::{DeliveryError, Producer, ProducerConfig, Record, SendError, partition_of_key},
};
use support::{cluster, fill, in_time, number, place, topic};

/// The first `count` records of a partition.
async fn read(topic: &str, partition: i32, count: usize) -> Vec<ConsumedRecord> {
    let mut consumer = Consumer::new(cluster(), ConsumerConfig::default());
    consumer.assign([(place(topic, partition), Start::Beginning)]);
    let mut records = Vec::new();
    let mut chunks = std::pin::pin!(consumer.stream());
    while records.len() < count {
        records.extend(in_time("records", chunks.next()).await.expect("goes on").expect("records").records);
    }
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn what_is_written_in_every_codec_is_read_as_it_was() {
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let topic = topic(codec.name(), 3, &[]).await;
        let producer = Producer::new(cluster(), ProducerConfig { codec, ..ProducerConfig::default() });
        let mut deliveries = Vec::new();
        for n in 0..300u32 {
            let key = format!("key-{}", n % 17);
            let record = Record {
                key: Some(key.clone().into()),
                value: (n % 10 != 0).then(|| n.to_string().repeat(20).into()),
                headers: vec![("n".into(), Some(n.to_string().into())), ("n".into(), None)],
                timestamp_ms: Some(1_700_000_000_000 + i64::from(n)),
                partition: None,
            };
            deliveries.push((key, record.clone(), producer.send(&topic, record).await.expect("taken")));
        }
        let mut expected: Vec<Vec<Record>> = vec![Vec::new(); 3];
        for (key, record, delivery) in deliveries {
            let delivered = delivery.await.expect("delivered");
            let partition = delivered.partition as usize;
            assert_eq!(partition, partition_of_key(key.as_bytes(), 3));
            assert_eq!(delivered.offset, expected[partition].len() as i64, "in the order of the calls");
            assert_eq!(Some(delivered.timestamp_ms), record.timestamp_ms);
            expected[partition].push(record);
        }
        producer.close().await;
        for (partition, expected) in (0..).zip(expected) {
            for (found, record) in read(&topic, partition, expected.len()).await.into_iter().zip(expected) {
                assert_eq!((found.key, found.value), (record.key, record.value), "{codec:?}");
                assert_eq!((found.headers, Some(found.timestamp_ms)), (record.headers, record.timestamp_ms));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn a_batch_that_the_topic_does_not_take_comes_in_pieces_and_a_record_that_is_too_large_is_refused() {
    for codec in [Codec::None, Codec::Lz4] {
        let topic = topic("small", 1, &[("max.message.bytes", "20000")]).await;
        let config = ProducerConfig { codec, linger: Duration::from_millis(50), ..ProducerConfig::default() };
        let producer = Producer::new(cluster(), config);
        let mut deliveries = Vec::new();
        // Bytes that no codec makes smaller.
        let mut state = 7u64;
        let mut noise = |bytes: usize| -> Vec<u8> {
            let next = std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            });
            next.take(bytes).collect()
        };
        let values: Vec<Vec<u8>> = (0..400).map(|_| noise(1000)).collect();
        for value in &values {
            let record = Record { value: Some(value.clone().into()), ..Record::default() };
            deliveries.push(producer.send(&topic, record).await.expect("taken"));
        }
        for (n, delivery) in (0..).zip(deliveries) {
            assert_eq!(delivery.await.expect("delivered").offset, n, "{codec:?}");
        }
        let large = Record { value: Some(noise(30_000).into()), ..Record::default() };
        let refused = producer.send(&topic, large).await.expect("taken").await;
        assert!(
            matches!(&refused, Err(DeliveryError::Refused { code, .. }) if code.name() == "MESSAGE_TOO_LARGE")
        );
        let after = Record { value: Some(b"after".to_vec().into()), ..Record::default() };
        let delivered = producer.send(&topic, after).await.expect("taken").await.expect("delivered");
        assert_eq!(delivered.offset, 400, "under a new producer id");
        producer.close().await;
        let found: Vec<_> =
            read(&topic, 0, 401).await.into_iter().filter_map(|record| record.value).collect();
        assert!(found.iter().zip(&values).all(|(found, value)| found == value) && found.len() == 401);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn memory_is_bounded_and_a_producer_that_is_ahead_waits() {
    let topic = topic("bounded", 2, &[]).await;
    let memory_bytes = 64 << 10;
    let producer = Producer::new(cluster(), ProducerConfig { memory_bytes, ..ProducerConfig::default() });
    let mut deliveries = Vec::new();
    for _ in 0..3000 {
        let record = Record { value: Some(vec![1; 1000].into()), ..Record::default() };
        deliveries.push(in_time("room", producer.send(&topic, record)).await.expect("taken"));
        let unknown = deliveries.iter().rev().take_while(|delivery| delivery.now().is_none()).count();
        assert!(unknown * 1000 <= memory_bytes, "{unknown} records are held");
    }
    let huge = Record { value: Some(vec![1; memory_bytes].into()), ..Record::default() };
    assert!(matches!(producer.send(&topic, huge).await, Err(SendError::TooLarge { .. })));
    producer.flush().await;
    assert!(deliveries.iter().all(|delivery| matches!(delivery.now(), Some(Ok(_)))), "a flush waits for all");
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn records_without_a_key_go_to_all_partitions_in_large_batches() {
    let topic = topic("keyless", 4, &[]).await;
    let producer =
        Producer::new(cluster(), ProducerConfig { batch_bytes: 2000, ..ProducerConfig::default() });
    let mut deliveries = Vec::new();
    for _ in 0..2000 {
        let record = Record { value: Some(vec![1; 100].into()), ..Record::default() };
        deliveries.push(producer.send(&topic, record).await.expect("taken"));
    }
    let (mut counts, mut changes, mut last) = ([0; 4], 0, -1);
    for delivery in deliveries {
        let partition = delivery.await.expect("delivered").partition;
        counts[partition as usize] += 1;
        changes += i32::from(partition != last);
        last = partition;
    }
    assert!(counts.iter().all(|count| *count > 300), "{counts:?}");
    assert!(changes < 250, "{changes} changes of partition");
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_broker_is_nothing_is_taken() {
    let unused =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let config = ClientConfig {
        connect_timeout: Duration::from_millis(200),
        ..ClientConfig::new(&unused.to_string())
    };
    let producer = Producer::new(Cluster::new(config), ProducerConfig::default());
    let sent = in_time("an answer", producer.send("t", Record::default())).await;
    assert!(matches!(sent, Err(SendError::Topic(error)) if error.is_retriable()));
    in_time("closed", producer.close()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn reading_goes_where_it_is_told_to() {
    let topic = topic("seek", 2, &[]).await;
    fill(&topic, 2, 0, 100).await;
    let (one, two) = (place(&topic, 0), place(&topic, 1));
    let mut consumer = Consumer::new(cluster(), ConsumerConfig::default());
    consumer.assign([(one.clone(), Start::Offset(10)), (two.clone(), Start::Beginning)]);
    consumer.pause(std::slice::from_ref(&two));
    assert_eq!(consumer.position(&one), Some(10));
    let mut next = 10;
    while next < 100 {
        let chunk = in_time("records", consumer.next()).await.expect("records");
        assert_eq!(chunk.partition, one, "the other one is paused");
        assert!(chunk.records.iter().all(|record| {
            next += 1;
            number(&record.value) == next - 1
        }));
        assert_eq!(consumer.position(&one), Some(i64::from(next)));
    }
    assert_eq!(consumer.high_watermark(&one), Some(100));
    // Read ahead, paused before it was given, resumed: nothing is lost and nothing comes twice.
    consumer.resume(std::slice::from_ref(&two));
    let first = in_time("records", consumer.next()).await.expect("records");
    consumer.pause(std::slice::from_ref(&two));
    assert!(tokio::time::timeout(Duration::from_millis(300), consumer.next()).await.is_err(), "paused");
    consumer.resume(std::slice::from_ref(&two));
    let mut numbers: Vec<u32> = first.records.iter().map(|record| number(&record.value)).collect();
    while numbers.len() < 100 {
        let chunk = in_time("records", consumer.next()).await.expect("records");
        numbers.extend(chunk.records.iter().map(|record| number(&record.value)));
    }
    assert!(numbers.into_iter().eq(0..100));
    assert!(consumer.seek(&one, Start::Offset(95)) && !consumer.seek(&place("other", 0), Start::End));
    let chunk = in_time("records", consumer.next()).await.expect("records");
    assert_eq!((chunk.partition.partition, number(&chunk.records[0].value)), (0, 95));
    // An offset that is not there: on from where the policy says.
    consumer.seek(&two, Start::Offset(5000));
    fill(&topic, 2, 100, 101).await;
    consumer.remove(std::slice::from_ref(&one));
    consumer.seek(&two, Start::Offset(100));
    let chunk = in_time("records", consumer.next()).await.expect("records");
    assert_eq!((chunk.partition.partition, number(&chunk.records[0].value)), (1, 100));
}
