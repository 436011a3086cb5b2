//! Sends the records that standard input requests and reports acknowledgements, until the input ends.

use std::{io::stdin, time::Duration};

use rdkafka::{
    ClientContext, Message,
    message::DeliveryResult,
    producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer},
};

use crate::{Outcome, config, key, value};

const DRAIN_MAX: Duration = Duration::from_secs(60);

struct ReportDelivery;

impl ClientContext for ReportDelivery {}

impl ProducerContext for ReportDelivery {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        match result {
            Ok(message) => println!("acked {} {} {number}", message.partition(), message.offset()),
            Err((error, _)) => println!("refused {number} {error}"),
        }
    }
}

pub fn run(bootstrap: &str, topic: &str, codec: &str) -> Outcome {
    let mut settings = config(bootstrap);
    settings.set("compression.codec", codec).set("enable.idempotence", "true");
    let producer: ThreadedProducer<ReportDelivery> = settings.create_with_context(ReportDelivery)?;
    for line in stdin().lines() {
        let line = line?;
        let (partition, number) = line.split_once(' ').ok_or("a line is PARTITION NUMBER")?;
        let number = number.parse()?;
        let (key, value) = (key(number), value(number));
        let record =
            BaseRecord::with_opaque_to(topic, number).key(&key).payload(&value).partition(partition.parse()?);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    Ok(producer.flush(DRAIN_MAX)?)
}
