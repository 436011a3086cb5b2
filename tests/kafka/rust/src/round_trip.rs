//! Each codec: create a topic, produce with `FutureProducer`, read back with `StreamConsumer`.

use std::{process::ExitCode, time::Duration};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{Consumer, StreamConsumer},
    message::{Header, Headers, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use tokio::{runtime::Builder, time::timeout};

use crate::{Outcome, PARTITIONS, config, key, value};

const WAIT_MAX: Duration = Duration::from_secs(30);

/// Where a record's partition is and what its offset must be there.
fn place(number: usize) -> (i32, i64) {
    ((number % PARTITIONS as usize) as i32, (number / PARTITIONS as usize) as i64)
}

pub fn run(bootstrap: &str, prefix: &str, records: usize) -> Outcome<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut code = ExitCode::SUCCESS;
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        match runtime.block_on(whole(bootstrap, &format!("{prefix}-{codec}"), codec, records)) {
            Ok(()) => println!("ok {codec}"),
            Err(error) => {
                println!("FAIL {codec}: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

async fn whole(bootstrap: &str, topic: &str, codec: &str, records: usize) -> Outcome {
    let admin: AdminClient<DefaultClientContext> = config(bootstrap).create()?;
    let wanted = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    for created in admin.create_topics([&wanted], &AdminOptions::new()).await? {
        created.map_err(|(name, error)| format!("{name}: {error}"))?;
    }
    produce(bootstrap, topic, codec, records).await?;
    consume(bootstrap, topic, records).await
}

async fn produce(bootstrap: &str, topic: &str, codec: &str, records: usize) -> Outcome {
    let mut settings = config(bootstrap);
    let producer: FutureProducer =
        settings.set("compression.codec", codec).set("enable.idempotence", "true").create()?;
    let mut sent = Vec::with_capacity(records);
    for number in 0..records {
        let (key, value, own) = (key(number), value(number), number.to_string());
        let headers = OwnedHeaders::new()
            .insert(Header { key: "n", value: Some(&own) })
            .insert(Header { key: "n", value: Some("again") });
        let record =
            FutureRecord::to(topic).key(&key).payload(&value).partition(place(number).0).headers(headers);
        sent.push(producer.send_result(record).map_err(|(error, _)| error)?);
    }
    for (number, acknowledged) in sent.into_iter().enumerate() {
        let found = timeout(WAIT_MAX, acknowledged).await??.map_err(|(error, _)| error)?;
        if (found.partition, found.offset) != place(number) {
            return Err(
                format!("record {number} acknowledged at {}/{}", found.partition, found.offset).into()
            );
        }
    }
    Ok(())
}

async fn consume(bootstrap: &str, topic: &str, records: usize) -> Outcome {
    let mut settings = config(bootstrap);
    let consumer: StreamConsumer =
        settings.set("group.id", "unused").set("enable.auto.commit", "false").create()?;
    let mut places = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        places.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&places)?;
    let mut following = [0_usize; PARTITIONS as usize];
    for _ in 0..records {
        let message = timeout(WAIT_MAX, consumer.recv()).await??;
        let partition = message.partition() as usize;
        let number = following[partition] * PARTITIONS as usize + partition;
        expect(&message, number)?;
        following[partition] += 1;
    }
    Ok(())
}

/// Fails when what was read is not the record of this number.
fn expect(message: &impl Message, number: usize) -> Outcome {
    let headers: Vec<(&str, Option<&[u8]>)> = message
        .headers()
        .into_iter()
        .flat_map(Headers::iter)
        .map(|header| (header.key, header.value))
        .collect();
    let own = number.to_string();
    let same = (message.partition(), message.offset()) == place(number)
        && message.key() == Some(key(number).as_bytes())
        && message.payload() == Some(value(number).as_bytes())
        && headers == [("n", Some(own.as_bytes())), ("n", Some("again".as_bytes()))];
    if !same {
        return Err(
            format!("{}/{} does not hold record {number}", message.partition(), message.offset()).into()
        );
    }
    Ok(())
}
