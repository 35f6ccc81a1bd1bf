//! Against a real Kafka, when `WINDKESSEL_TEST_KAFKA` names it: that consumers of committed records see each row once, in order, whatever dies
//! when, and that an earlier run cannot publish beside a later one.
//!
//! A crash is a sink that is forgotten: its producer's threads live on, which is worse. Every test has topics of its own, named at random.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, BooleanArray};
use arrow::datatypes::Int32Type;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::*;
use crate::audit::series::FEATURES;
use crate::config::ReadingFilter;
use crate::sink::testing::{alert, alerts, position, readings, tables};
use crate::vocabulary::findings::{Alert, AlertState};
use crate::vocabulary::{Partition, Position, Rejection};

const EPOCHS: Epoch = 6;
const PARTITIONS: i32 = 2;

/// A broker, and names of one's own in it.
struct Real {
    /// Also in the transactional ids, which the whole cluster shares.
    job: String,
    spec: KafkaSinkSpec,
    stop: Stop,
    metrics: Metrics,
}

/// `None`, said aloud, where there is no broker.
fn real(test: &str, progress: &[(&str, &str)]) -> Option<Real> {
    let Ok(brokers) = std::env::var("WINDKESSEL_TEST_KAFKA") else {
        // Never a failure: `tests/services` starts a broker and runs these tests once more against it.
        println!("SKIPPED {test}: WINDKESSEL_TEST_KAFKA names no broker");
        return None;
    };
    let suffix = format!("{:08x}", getrandom::u32().unwrap());
    let spec = KafkaSinkSpec {
        brokers,
        topic: format!("readings-{suffix}"),
        readings: ReadingFilter::All,
        dead_letter_topic: format!("rejected-{suffix}"),
        alerts_topic: format!("alerts-{suffix}"),
        progress_topic: format!("progress-{suffix}"),
        ..KafkaSinkSpec::default()
    };
    let real = Real { job: format!("flow-{suffix}"), spec, stop: Stop::default(), metrics: Metrics::new() };
    real.create(&real.spec.topic, PARTITIONS, &[]);
    real.create(&real.spec.dead_letter_topic, PARTITIONS, &[]);
    real.create(&real.spec.alerts_topic, PARTITIONS, &[]);
    if !progress.is_empty() {
        real.create(&real.spec.progress_topic, 1, progress);
    }
    Some(real)
}

impl Real {
    fn lane(&self, generation: u64, worker: usize, workers: usize, earlier: &[(u64, usize)]) -> Lane {
        Lane { job: self.job.clone(), generation, worker, workers, earlier: earlier.to_vec(), published_up_to: 0 }
    }

    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.spec.brokers).set("topic.metadata.refresh.interval.ms", "500");
        client
    }

    fn create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
        for (key, value) in settings {
            new = new.set(key, value);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answers = runtime.block_on(admin.create_topics([&new], &AdminOptions::new())).unwrap();
        answers.into_iter().for_each(|answer| drop(answer.unwrap()));
    }

    fn sink(&self, lane: Lane) -> KafkaSink {
        KafkaSink::new(&self.spec, self.client(), "group", lane, self.stop.clone(), self.metrics.clone()).unwrap()
    }

    fn wait(&self) -> Wait<'_> {
        Wait::new(&self.stop, &self.metrics)
    }

    /// Everything committed in a topic: key and value, by partition in order.
    fn committed(&self, topic: &str) -> Vec<(String, Option<String>)> {
        let mut client = self.client();
        client.set("group.id", "reader").set("enable.partition.eof", "true").set("isolation.level", "read_committed");
        let consumer: BaseConsumer = client.create().unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(20)).unwrap();
        let mut messages = Vec::new();
        for partition in metadata.topics()[0].partitions() {
            let mut from = TopicPartitionList::new();
            from.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
            consumer.assign(&from).unwrap();
            let begun = Instant::now();
            // A transaction that somebody left open ends a partition early: the caller compares.
            loop {
                assert!(begun.elapsed() < Duration::from_secs(60), "{topic} cannot be read");
                match consumer.poll(Duration::from_millis(100)) {
                    Some(Ok(message)) => {
                        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                        messages.push((text(message.key().unwrap()), message.payload().map(text)));
                    }
                    Some(Err(KafkaError::PartitionEOF(_))) => break,
                    _ => {}
                }
            }
        }
        messages
    }

    /// Every row of every epoch is committed once, and those of one key in order.
    fn check(&self) {
        for (topic, table) in [
            (&self.spec.topic, readings_of as fn(Epoch) -> Rows),
            (&self.spec.dead_letter_topic, rejected_of),
            (&self.spec.alerts_topic, alerts_of),
        ] {
            let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
            let all = |_| true;
            for epoch in 1..=EPOCHS {
                let rows = table(epoch);
                let messages = match rows.table {
                    TableName::Readings => message::readings(&self.spec, epoch, &rows, all).unwrap(),
                    TableName::Alerts => message::alerts(&self.spec, epoch, &rows, all).unwrap(),
                    _ => message::dead_letters(&self.spec, "group", epoch, &rows, all)
                        .unwrap()
                        .into_iter()
                        .map(|(_, message)| message)
                        .collect(),
                };
                for message in messages {
                    let value = String::from_utf8(message.value.unwrap()).unwrap();
                    expected.entry(String::from_utf8(message.key).unwrap()).or_default().push(value);
                }
            }
            let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (key, value) in self.committed(topic) {
                found.entry(key).or_default().push(value.unwrap());
            }
            assert!(found == expected, "{topic}: found {found:#?}\nexpected {expected:#?}");
        }
    }
}

fn readings_of(epoch: Epoch) -> Rows {
    readings(
        epoch,
        &[(120.0, false), (171.0, false), (119.0, true), (150.0, false), (130.0, false), (90.0, false), (91.0, true)],
    )
}

/// Of four partitions, at places that differ from epoch to epoch.
fn rejected_of(epoch: Epoch) -> Rows {
    let rejection = |number: i32| Rejection {
        rule: "unit_missing",
        detail: "component.valueQuantity.unit",
        index: None,
        position: Position { partition: Partition { number, ..position(0).partition }, offset: epoch as i64, entry: 0 },
    };
    tables(None, false).rejected(&(0..4).map(rejection).collect::<Vec<_>>(), epoch)
}

/// Of four features, in the order of their series; of one window, with another value in each epoch.
fn alerts_of(epoch: Epoch) -> Rows {
    let of = |feature| Alert { value: Some(epoch as f64), ..alert(feature, 1, AlertState::Raised) };
    alerts(epoch, FEATURES.map(|feature| of(feature.name)).into())
}

/// The rows that come to a worker; routes are computed another way than the sink's.
fn share(rows: Rows, worker: usize, workers: usize) -> Rows {
    let column = |name: &str| rows.batch.column_by_name(name).unwrap();
    let route = |row: usize| match rows.table {
        // All bytes of a test's pseudonym are equal.
        TableName::Readings => column("patient").as_string::<i32>().value(row)[..2].parse::<u64>().unwrap(),
        TableName::Alerts => {
            let name = column("feature").as_string::<i32>().value(row);
            FEATURES.iter().position(|feature| feature.name == name).unwrap() as u64
        }
        _ => crate::source::route("bp-obs", column("partition").as_primitive::<Int32Type>().value(row)),
    };
    let mine: Vec<bool> = (0..rows.batch.num_rows()).map(|row| route(row) % workers as u64 == worker as u64).collect();
    let replaces = rows.replaces.iter().zip(&mine).filter(|(_, mine)| **mine).map(|(replaces, _)| *replaces);
    let routes = rows.routes.iter().zip(&mine).filter(|(_, mine)| **mine).map(|(route, _)| *route);
    Rows {
        replaces: Arc::from(replaces.collect::<Vec<_>>()),
        routes: routes.collect(),
        batch: arrow::compute::filter_record_batch(&rows.batch, &BooleanArray::from(mine)).unwrap(),
        table: rows.table,
    }
}

fn deliver(sink: &mut KafkaSink, epoch: Epoch) -> Result<(), SinkError> {
    let (worker, workers) = (sink.place.lane.worker, sink.place.lane.workers);
    sink.deliver(epoch, &share(readings_of(epoch), worker, workers))?;
    sink.deliver(epoch, &share(rejected_of(epoch), worker, workers))?;
    sink.deliver(epoch, &share(alerts_of(epoch), worker, workers))
}

/// Where in an epoch a worker dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Death {
    Unborn,
    Delivered,
    Filled,
    Committed,
    Never,
}

/// One worker of one generation: replays everything, and dies in the middle of an epoch.
fn live(real: &Real, lane: Lane, death: Death, dies: Epoch) {
    if death == Death::Unborn {
        return;
    }
    let mut sink = real.sink(lane);
    for epoch in 1..=EPOCHS {
        deliver(&mut sink, epoch).unwrap();
        let dies = epoch == dies;
        if dies && death == Death::Filled && !sink.held.is_empty() {
            let (held, upto) = (std::mem::take(&mut sink.held), sink.upto);
            sink.session.as_mut().unwrap().fill(&held, upto, &real.wait());
        }
        if dies && matches!(death, Death::Delivered | Death::Filled) {
            return std::mem::forget(sink);
        }
        // Some epochs are closed together.
        if epoch % 3 != 1 || dies {
            sink.close(epoch).unwrap();
        }
        if dies && death == Death::Committed {
            return std::mem::forget(sink);
        }
    }
    sink.close(EPOCHS).unwrap();
    sink.finish().unwrap();
}

#[test]
fn whatever_dies_when_and_however_many_workers_follow_each_row_is_there_once_and_in_order() {
    const DEATHS: [Death; 5] = [Death::Filled, Death::Committed, Death::Delivered, Death::Unborn, Death::Never];
    for seed in 0..3 {
        let Some(real) = real("whatever_dies_when", &[]) else { return };
        let (mut earlier, mut count) = (Vec::new(), seed);
        for (generation, workers) in (1..).zip([1, 2, 3, 1, 2]) {
            for worker in 0..workers {
                let death = if generation == 5 { Death::Never } else { DEATHS[count % DEATHS.len()] };
                live(
                    &real,
                    real.lane(generation, worker, workers, &earlier),
                    death,
                    1 + (count as u64 * 2 + generation) % EPOCHS,
                );
                count += 1;
            }
            earlier.push((generation, workers));
        }
        real.check();
    }
}

#[test]
fn a_run_that_was_taken_over_cannot_publish() {
    let Some(real) = real("a_run_that_was_taken_over_cannot_publish", &[]) else { return };
    // In the middle of a transaction; before one; and not yet open, when the next generation starts.
    let mut sinks: Vec<KafkaSink> = (0..3).map(|worker| real.sink(real.lane(1, worker, 3, &[]))).collect();
    for sink in &mut sinks[..2] {
        deliver(sink, 1).unwrap();
        assert!(!sink.held.is_empty());
    }
    let (held, upto) = (sinks[0].held.clone(), sinks[0].upto);
    sinks[0].session.as_mut().unwrap().fill(&held, upto, &real.wait());

    let begun = Instant::now();
    let mut next = real.sink(real.lane(2, 0, 1, &[(1, 3)]));
    deliver(&mut next, 1).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(40), "it has waited until the open transaction was too old");

    let late = sinks[0].session.as_ref().unwrap().end(&real.wait());
    assert!(late.is_err(), "a transaction that the next run has aborted was committed");
    for sink in &mut sinks {
        let error = deliver(sink, 2).and_then(|()| sink.close(2)).unwrap_err().to_string();
        assert!(error.starts_with("another run of this flow has taken over"), "{error}");
    }
    for epoch in 2..=EPOCHS {
        deliver(&mut next, epoch).unwrap();
    }
    next.close(EPOCHS).unwrap();
    real.check();
}

#[test]
fn a_result_that_nobody_knows_is_looked_up() {
    let Some(real) = real("a_result_that_nobody_knows_is_looked_up", &[]) else { return };
    let mut sink = real.sink(real.lane(1, 0, 1, &[]));
    for epoch in 1..=EPOCHS {
        deliver(&mut sink, epoch).unwrap();
        let (held, upto) = (sink.held.clone(), sink.upto);
        let session = sink.session.as_mut().unwrap();
        session.fill(&held, upto, &real.wait());
        if epoch % 2 == 0 {
            session.end(&real.wait()).unwrap();
        }
        session.lose_producer();
        sink.close(epoch).unwrap();
    }
    real.check();
}

#[test]
fn a_transaction_that_took_too_long_is_published_again() {
    let Some(real) = real("a_transaction_that_took_too_long_is_published_again", &[]) else { return };
    let mut client = real.client();
    client.set("transaction.timeout.ms", "2000");
    let lane = real.lane(1, 0, 1, &[]);
    let mut sink = KafkaSink::new(&real.spec, client, "group", lane, real.stop.clone(), real.metrics.clone()).unwrap();
    deliver(&mut sink, 1).unwrap();
    let (held, upto) = (sink.held.clone(), sink.upto);
    sink.session.as_mut().unwrap().fill(&held, upto, &real.wait());
    // The broker looks for transactions that are too old every 10 s, and aborts them under a new epoch.
    std::thread::sleep(Duration::from_secs(14));
    assert!(sink.session.as_ref().unwrap().end(&real.wait()).is_err());
    for epoch in 2..=EPOCHS {
        deliver(&mut sink, epoch).unwrap();
    }
    sink.close(EPOCHS).unwrap();
    real.check();
}

#[test]
fn progress_survives_compaction_and_what_is_outdated_is_deleted() {
    let eager = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "500"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "500"),
        ("delete.retention.ms", "0"),
    ];
    let Some(real) = real("progress_survives_compaction", &eager) else { return };
    live(&real, real.lane(1, 0, 1, &[]), Death::Committed, 2);
    live(&real, real.lane(2, 0, 2, &[(1, 1)]), Death::Committed, 3);
    live(&real, real.lane(2, 1, 2, &[(1, 1)]), Death::Filled, 5);
    let begun = Instant::now();
    loop {
        // An opening writes marks, so that a new segment begins and the full ones are compacted.
        real.sink(real.lane(3, 0, 1, &[(1, 1), (2, 2)])).idle().unwrap();
        let opened = real.committed(&real.spec.progress_topic);
        if opened.iter().filter(|(key, _)| key.ends_with("/3/0/1/mark")).count() < 4
            && begun.elapsed() > Duration::from_secs(5)
        {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "the topic is not compacted");
        std::thread::sleep(Duration::from_millis(700));
    }
    live(&real, real.lane(4, 0, 1, &[(1, 1), (2, 2), (3, 1)]), Death::Never, 0);
    real.check();

    // A checkpoint covers everything.
    let covered = Lane { published_up_to: EPOCHS, ..real.lane(5, 0, 1, &[(4, 1)]) };
    let mut sink = real.sink(covered);
    sink.idle().unwrap();
    let mut last = BTreeMap::new();
    last.extend(real.committed(&real.spec.progress_topic));
    let standing: Vec<_> = last.into_iter().filter_map(|(key, value)| Some(format!("{key} {}", value?))).collect();
    let expected = ["4/0/1 6", "4/0/1/mark opened", "5/0/1/mark opened"].map(|record| format!("{}/{record}", real.job));
    assert_eq!(standing, expected);
    deliver(&mut sink, EPOCHS).unwrap();
    assert!(sink.held.is_empty(), "a checkpoint covers it");
}

#[test]
fn a_missing_progress_topic_is_made_and_one_that_forgets_is_refused() {
    let Some(mut real) = real("a_missing_progress_topic_is_made", &[]) else { return };
    real.sink(real.lane(1, 0, 1, &[])).idle().unwrap();
    real.sink(real.lane(1, 0, 1, &[])).idle().unwrap();
    let forgets = real.spec.topic.clone();
    real.spec.progress_topic = forgets.clone();
    let error = real.sink(real.lane(1, 0, 1, &[])).idle().unwrap_err().to_string();
    assert!(error.contains(&forgets) && error.contains("cleanup.policy=compact"), "{error}");
    real.spec.progress_topic = format!("{forgets}-narrow");
    real.create(&real.spec.progress_topic, 1, &[("cleanup.policy", "delete")]);
    let error = real.sink(real.lane(1, 0, 1, &[])).idle().unwrap_err().to_string();
    assert!(error.contains("cleanup.policy is \"delete\""), "{error}");
}

#[test]
fn a_stream_without_rows_writes_nothing() {
    let Some(real) = real("a_stream_without_rows_writes_nothing", &[]) else { return };
    let mut sink = real.sink(real.lane(1, 0, 1, &[]));
    for epoch in 1..=EPOCHS {
        sink.close(epoch).unwrap();
        sink.idle().unwrap();
    }
    sink.finish().unwrap();
    let keys: Vec<String> = real.committed(&real.spec.progress_topic).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, vec![format!("{}/1/0/1/mark", real.job); 2]);
}
