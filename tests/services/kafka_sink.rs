//! Proves that the Kafka sink publishes every row once, in order, while the broker is killed under it.
//!
//! What else can go wrong with it is tried in the library's own `sink::kafka::real`.

use std::thread::sleep;
use std::time::Duration;

use rdkafka::ClientConfig;
use windkessel::config::KafkaSinkSpec;
use windkessel::runtime::metrics::Metrics;
use windkessel::runtime::stop::Stop;
use windkessel::sink::Deliver;
use windkessel::sink::kafka::{KafkaSink, Lane};
use windkessel::sink::tables::{Context, Tables};
use windkessel::source::Topics;
use windkessel::vocabulary::{Partition, Position, Rejection, TopicId};

use crate::clients::topic;
use crate::servers::servers;

const EPOCHS: u64 = 400;
const ROWS: i64 = 20;

#[test]
fn a_broker_that_is_killed_again_and_again_holds_every_row_once() {
    const NAME: &str = "a_broker_that_is_killed_again_and_again_holds_every_row_once";
    let Some(mut servers) = servers(NAME) else { return };
    if !servers.kafka.is_ours(NAME) {
        return;
    }
    let name = format!("killed-{}", std::process::id());
    let spec = KafkaSinkSpec {
        topic: String::new(),
        dead_letter_topic: name.clone(),
        progress_topic: format!("{name}-progress"),
        ..KafkaSinkSpec::default()
    };
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &servers.kafka.address);
    let job = name.clone();
    let lane = Lane { job, generation: 1, worker: 0, workers: 1, earlier: Vec::new(), published_up_to: 0 };
    let metrics = Metrics::new();
    let retries = metrics.sink_retries.with_label_values(&["kafka"]);
    let mut sink = KafkaSink::new(&spec, client, "group", lane, Stop::default(), metrics).unwrap();
    let context = Context {
        topics: Topics::new(["source".to_owned()]),
        signals: Vec::new(),
        rule_set: "none".into(),
        model: None,
    };
    let tables = Tables::new(context);
    let publishing = std::thread::spawn(move || {
        for epoch in 1..=EPOCHS {
            let rejections: Vec<Rejection> = (0..ROWS).map(|row| rejection(epoch as i64 * ROWS + row)).collect();
            sink.deliver(epoch, &tables.rejected(&rejections, epoch)).unwrap();
            sink.close(epoch).unwrap();
            sleep(Duration::from_millis(50));
        }
        sink.finish().unwrap();
    });
    for _ in 0..3 {
        sleep(Duration::from_secs(4));
        servers.kafka.kill();
        sleep(Duration::from_secs(2));
        servers.kafka.restart();
    }
    publishing.join().unwrap();
    let keys = topic(&servers.kafka.address, &name).into_iter().map(|record| String::from_utf8(record.key).unwrap());
    let offsets: Vec<i64> = keys.map(|key| key.split('/').nth(2).unwrap().parse().unwrap()).collect();
    // One partition, as the broker makes topics by default.
    let expected: Vec<i64> = (ROWS..(EPOCHS as i64 + 1) * ROWS).collect();
    assert_eq!(offsets, expected);
    eprintln!("{NAME}: {} rows were sent again", retries.get());
}

fn rejection(offset: i64) -> Rejection {
    let partition = Partition { topic: TopicId(0), number: 3 };
    Rejection { rule: "unit_missing", detail: "", index: None, position: Position { partition, offset, entry: 0 } }
}
