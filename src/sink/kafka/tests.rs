//! Against librdkafka's mock cluster: what arrives, and what the sink does when it does not. The mock shows what was aborted; that each row is
//! there once is proved in `real.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::StringArray;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};

use super::*;
use crate::config::ReadingFilter;
use crate::sink::json;
use crate::sink::testing::{alert, alerts, many, readings, rejected};
use crate::vocabulary::findings::AlertState;

type Cluster = MockCluster<'static, DefaultProducerContext>;

const TOPICS: [&str; 4] = ["bp-assessed", "error.bp-obs.windkessel", "windkessel-progress", "bp-alerts"];

fn cluster() -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    TOPICS.iter().for_each(|topic| cluster.create_topic(topic, 1, 1).unwrap());
    cluster
}

fn lane(generation: u64) -> Lane {
    Lane { job: "flow".into(), generation, worker: 0, workers: 1, earlier: Vec::new(), published_up_to: 0 }
}

fn sink(cluster: &Cluster, stop: &Stop, metrics: &Metrics, adapt: impl Fn(&mut KafkaSinkSpec)) -> KafkaSink {
    let mut spec = KafkaSinkSpec { topic: TOPICS[0].into(), ..KafkaSinkSpec::default() };
    adapt(&mut spec);
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", cluster.bootstrap_servers());
    spec.client.iter().for_each(|(key, value)| {
        client.set(key, value);
    });
    KafkaSink::new(&spec, client, "windkessel", lane(1), stop.clone(), metrics.clone()).unwrap()
}

/// Reads `count` messages of a topic, as `key headers payload`.
fn read(cluster: &Cluster, topic: &str, count: usize) -> Vec<String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "test")
        .create()
        .unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut messages = Vec::new();
    while messages.len() < count && Instant::now() < deadline {
        if let Some(message) = consumer.poll(Duration::from_millis(50)) {
            messages.push(show(&message.unwrap()));
        }
    }
    messages
}

fn show(message: &BorrowedMessage<'_>) -> String {
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
    let headers: Vec<String> = message
        .headers()
        .map(|headers| headers.iter().map(|header| format!("{}={}", header.key, text(header.value))).collect())
        .unwrap_or_default();
    format!("{} [{}] {}", text(message.key()), headers.join(" "), text(message.payload()))
}

#[test]
fn anomalous_readings_arrive_keyed_by_pseudonym() {
    let (cluster, stop, metrics) = (cluster(), Stop::default(), Metrics::new());
    let mut sink = sink(&cluster, &stop, &metrics, |_| {});
    let rows = readings(7, &[(120.0, false), (171.0, false), (119.0, true)]);
    sink.deliver(7, &rows).unwrap();
    sink.close(7).unwrap();
    sink.finish().unwrap();
    let lines = json::rows(&rows.batch, &BTreeMap::new()).unwrap();
    let expected = [1, 2].map(|row| {
        let value = std::str::from_utf8(lines.object(row).unwrap()).unwrap();
        format!("{} [epoch=7] {value}", format!("0{row}").repeat(16))
    });
    assert_eq!(read(&cluster, TOPICS[0], 2), expected);
    assert_eq!(
        read(&cluster, TOPICS[2], 3),
        ["flow/1/0/1/mark [] announced", "flow/1/0/1/mark [] opened", "flow/1/0/1 [] 7"]
    );
}

#[test]
fn a_dead_letter_names_the_rule_and_the_place_and_nothing_else() {
    let (cluster, stop, metrics) = (cluster(), Stop::default(), Metrics::new());
    // Dead letters alone: no topic for readings.
    let mut sink = sink(&cluster, &stop, &metrics, |spec| spec.topic.clear());
    sink.deliver(7, &readings(7, &[(171.0, false)])).unwrap();
    sink.deliver(7, &rejected(7, 2)).unwrap();
    sink.close(7).unwrap();
    let letters = read(&cluster, TOPICS[1], 2);
    expect_test::expect![[r#"
        bp-obs/3/0/0 [x-error-type=unit_missing x-error-message=component.valueQuantity.unit x-source-topic=bp-obs x-source-partition=3 x-source-offset=0 epoch=7] {"detail":"component.valueQuantity.unit","entry":0,"index":0,"offset":0,"partition":3,"rule":"unit_missing","topic":"bp-obs"}
        bp-obs/3/1/0 [x-error-type=unit_missing x-error-message=component.valueQuantity.unit x-source-topic=bp-obs x-source-partition=3 x-source-offset=1 epoch=7] {"detail":"component.valueQuantity.unit","entry":0,"index":1,"offset":1,"partition":3,"rule":"unit_missing","topic":"bp-obs"}"#]]
    .assert_eq(&letters.join("\n"));
}

#[test]
fn alerts_go_to_their_topic_under_subject_and_window() {
    let (cluster, stop, metrics) = (cluster(), Stop::default(), Metrics::new());
    let mut sink = sink(&cluster, &stop, &metrics, |spec| spec.alerts_topic = TOPICS[3].into());
    for (epoch, state) in [(7, AlertState::Raised), (8, AlertState::Withdrawn)] {
        sink.deliver(epoch, &alerts(epoch, vec![alert("systolic", 1, state)])).unwrap();
        sink.close(epoch).unwrap();
    }
    expect_test::expect![[r#"
        shifts/systolic/all/2026-01-01T01:00:00.000000Z/2026-01-01T02:00:00.000000Z [epoch=7] {"table":"shifts","feature":"systolic","group":"all","current_start":"2026-01-01T01:00:00.000000Z","current_end":"2026-01-01T02:00:00.000000Z","state":"raised","statistic":"psi","value":0.31,"windows_held":3,"epoch":7}
        shifts/systolic/all/2026-01-01T01:00:00.000000Z/2026-01-01T02:00:00.000000Z [epoch=8] {"table":"shifts","feature":"systolic","group":"all","current_start":"2026-01-01T01:00:00.000000Z","current_end":"2026-01-01T02:00:00.000000Z","state":"withdrawn","statistic":"psi","value":0.31,"windows_held":3,"epoch":8}"#]]
    .assert_eq(&read(&cluster, TOPICS[3], 2).join("\n"));
}

#[test]
fn empty_topics_are_not_written() {
    let (cluster, stop, metrics) = (cluster(), Stop::default(), Metrics::new());
    let mut sink = sink(&cluster, &stop, &metrics, |spec| {
        spec.topic.clear();
        spec.dead_letter_topic.clear();
        spec.readings = ReadingFilter::All;
    });
    sink.deliver(7, &many(7, 5)).unwrap();
    sink.deliver(7, &rejected(7, 5)).unwrap();
    sink.deliver(7, &alerts(7, vec![alert("systolic", 1, AlertState::Raised)])).unwrap();
    sink.close(7).unwrap();
    assert_eq!(metrics.sink_bytes.with_label_values(&[NAME]).get(), 0);
}

#[test]
fn a_full_queue_makes_the_sink_wait_and_loses_nothing() {
    let (cluster, stop, metrics) = (cluster(), Stop::default(), Metrics::new());
    let mut sink = sink(&cluster, &stop, &metrics, |spec| {
        spec.readings = ReadingFilter::All;
        spec.client.insert("queue.buffering.max.messages".into(), "10".into());
    });
    sink.deliver(7, &many(7, 200)).unwrap();
    sink.close(7).unwrap();
    let keys = read(&cluster, TOPICS[0], 200);
    let lines = json::rows(&many(7, 200).batch, &BTreeMap::new()).unwrap();
    assert_eq!(keys.len(), 200);
    for (row, message) in keys.iter().enumerate() {
        assert!(message.ends_with(std::str::from_utf8(lines.object(row).unwrap()).unwrap()), "row {row}");
    }
}

#[test]
fn what_the_client_gives_up_on_is_sent_again_with_key_and_headers() {
    let (cluster, stop, metrics) = (cluster(), Stop::default(), Metrics::new());
    let mut sink = sink(&cluster, &stop, &metrics, |spec| {
        spec.client.insert("topic.metadata.refresh.interval.ms".into(), "100".into());
    });
    sink.idle().unwrap();
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::Produce, &[refusal, refusal]);
    sink.deliver(7, &readings(7, &[(171.0, false), (172.0, false)])).unwrap();
    sink.close(7).unwrap();
    let messages = read(&cluster, TOPICS[0], 2);
    assert!(messages[0].starts_with(&format!("{} [epoch=7] {{", "00".repeat(16))), "{messages:?}");
    assert!(messages[1].starts_with(&format!("{} [epoch=7] {{", "01".repeat(16))), "{messages:?}");
    assert_eq!(metrics.sink_retries.with_label_values(&[NAME]).get(), 4, "two rows, twice");
}

#[test]
fn a_producer_that_failed_for_good_is_followed_by_another() {
    let (cluster, stop, metrics) = (cluster(), Stop::default(), Metrics::new());
    let mut sink = sink(&cluster, &stop, &metrics, |_| {});
    sink.idle().unwrap();
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    sink.deliver(7, &readings(7, &[(171.0, false)])).unwrap();
    sink.close(7).unwrap();
    sink.deliver(8, &readings(8, &[(172.0, false)])).unwrap();
    sink.close(8).unwrap();
    let messages = read(&cluster, TOPICS[0], 2);
    assert!(messages[0].contains("[epoch=7]") && messages[1].contains("[epoch=8]"), "{messages:?}");
}

#[test]
fn after_a_lost_connection_the_next_transaction_has_a_new_producer() {
    let (cluster, stop, metrics) = (cluster(), Stop::default(), Metrics::new());
    let mut sink = sink(&cluster, &stop, &metrics, |_| {});
    sink.idle().unwrap();
    assert!(sink.session.as_ref().unwrap().has_producer());
    // The client repeats the request by itself; what became of the first one nobody knows.
    cluster.request_errors(RDKafkaApiKey::EndTxn, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT]);
    sink.deliver(7, &readings(7, &[(171.0, false)])).unwrap();
    sink.close(7).unwrap();
    assert!(!sink.session.as_ref().unwrap().has_producer());
    sink.deliver(8, &readings(8, &[(172.0, false)])).unwrap();
    sink.close(8).unwrap();
    assert!(sink.session.as_ref().unwrap().has_producer());
    assert_eq!(read(&cluster, TOPICS[0], 2).len(), 2);
}

#[test]
fn a_message_that_no_attempt_can_deliver_ends_the_run_with_a_hint() {
    let (cluster, stop, metrics) = (cluster(), Stop::default(), Metrics::new());
    let mut sink = sink(&cluster, &stop, &metrics, |spec| {
        spec.client.insert("message.max.bytes".into(), "1000".into());
        spec.readings = ReadingFilter::All;
    });
    // Reasons long enough to be too large.
    let mut rows = readings(7, &[(171.0, false)]);
    let long: arrow::array::ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(2_000)]));
    let index = rows.batch.schema().index_of("rule_set").unwrap();
    let mut columns = rows.batch.columns().to_vec();
    columns[index] = long;
    rows.batch = arrow::array::RecordBatch::try_new(rows.batch.schema(), columns).unwrap();
    let error = sink.deliver(7, &rows).and_then(|()| sink.close(7)).unwrap_err().to_string();
    assert!(error.contains("bp-assessed") && error.contains("raise message.max.bytes"), "{error}");
    assert!(!error.contains("xxx") && !error.contains("00000000"), "{error}");
}

#[test]
fn a_transactional_id_that_is_not_allowed_ends_the_run_with_a_hint() {
    let (cluster, stop, metrics) = (cluster(), Stop::default(), Metrics::new());
    let mut sink = sink(&cluster, &stop, &metrics, |_| {});
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[refusal; 4]);
    let error = sink.idle().unwrap_err().to_string();
    assert!(error.contains("windkessel.flow.1.0") && error.contains("WRITE and DESCRIBE"), "{error}");
}

#[test]
fn a_run_that_is_abandoned_does_not_wait_for_a_broker() {
    let (cluster, stop, metrics) = (cluster(), Stop::default(), Metrics::new());
    let mut sink = sink(&cluster, &stop, &metrics, |_| {});
    sink.idle().unwrap();
    cluster.broker_down(1).unwrap();
    sink.deliver(7, &readings(7, &[(171.0, false)])).unwrap();
    stop.ask();
    stop.ask();
    assert!(matches!(sink.close(7), Err(SinkError::Stopped)));
}

#[test]
fn a_broker_that_comes_back_gets_everything_and_the_wait_is_shown() {
    let (cluster, stop, metrics) = (cluster(), Stop::default(), Metrics::new());
    let mut sink = sink(&cluster, &stop, &metrics, |_| {});
    cluster.broker_down(1).unwrap();
    let waiting = metrics.sink_waiting.with_label_values(&[NAME]);
    let seen = waiting.clone();
    let delivered = std::thread::spawn(move || {
        sink.deliver(7, &readings(7, &[(171.0, false)])).unwrap();
        sink.close(7).unwrap();
    });
    while seen.get() == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    cluster.broker_up(1).unwrap();
    delivered.join().unwrap();
    assert_eq!(waiting.get(), 0);
    assert_eq!(read(&cluster, TOPICS[0], 1).len(), 1);
}

#[test]
fn a_progress_topic_with_several_partitions_is_refused() {
    let (cluster, stop, metrics) = (cluster(), Stop::default(), Metrics::new());
    cluster.create_topic("wide", 2, 1).unwrap();
    let mut sink = sink(&cluster, &stop, &metrics, |spec| spec.progress_topic = "wide".into());
    let error = sink.idle().unwrap_err().to_string();
    assert!(error.contains("\"wide\"") && error.contains("one partition"), "{error}");
}
