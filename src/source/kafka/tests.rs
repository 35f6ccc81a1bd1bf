//! Proves the source against librdkafka's mock cluster: order, ends, shares, offsets, limits, and what a missing broker or topic looks like.
//! The last test does the same against a real broker, where transactions leave offsets without records.

use std::collections::BTreeMap;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::client::configuration;
use super::*;
use crate::config::Start;
use crate::source::Share;
use crate::source::embedded::{Embedded, Feed, synthetic};
use crate::source::generator::{Generator, profile::Profile};
use crate::source::produce::Producer;

const ONE: Share = Share { worker: 0, workers: 1 };
const TOPIC: &str = "bp-obs";
/// Nothing here takes long; this is for a machine that does a hundred other things.
const PATIENCE: Duration = Duration::from_secs(60);

struct Setup {
    spec: SourceSpec,
    share: Share,
    until_end: bool,
    resume: BTreeMap<Partition, i64>,
    stop: Stop,
    progress: Option<Progress>,
    waits: Waits,
}

impl Setup {
    fn new(brokers: &str) -> Self {
        let topics = vec![TOPIC.to_owned()];
        Setup {
            spec: SourceSpec { brokers: brokers.into(), topics, start: Start::Earliest, ..SourceSpec::default() },
            share: ONE,
            until_end: true,
            resume: BTreeMap::new(),
            stop: Stop::default(),
            progress: None,
            waits: Waits { brokers: Duration::from_secs(10), topic: Duration::from_millis(300) },
        }
    }

    fn open(&self) -> Result<KafkaSource, SourceError> {
        let topics = topics(&self.spec)?;
        let opening = Opening {
            share: self.share,
            until_end: self.until_end,
            topics: &topics,
            path_key: &|_| [0; 6],
            resume: &self.resume,
            stop: &self.stop,
            progress: self.progress.clone(),
        };
        KafkaSource::open(&self.spec, &opening, self.waits)
    }

    /// Opens as if the last partitions had not been there yet.
    fn open_before(&self, added: i32) -> KafkaSource {
        let topics = topics(&self.spec).unwrap();
        let opening = Opening {
            share: self.share,
            until_end: self.until_end,
            topics: &topics,
            path_key: &|_| [0; 6],
            resume: &self.resume,
            stop: &self.stop,
            progress: self.progress.clone(),
        };
        let mut fetcher = start::consumer(&self.spec).unwrap();
        let mut planned = start::plan(&mut fetcher, &self.spec, &opening, self.waits).unwrap();
        planned.retain(|plan| plan.partition.number < added);
        KafkaSource::assigned(fetcher, &self.spec, &opening, &planned).unwrap()
    }

    fn error(&self) -> String {
        self.open().err().expect("it must not open").to_string()
    }
}

fn cluster(partitions: i32) -> (MockCluster<'static, DefaultProducerContext>, String) {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, partitions, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    (cluster, brokers)
}

/// Payloads `<partition>-<ordinal>`, each with its own key.
fn produce(brokers: &str, topic: &str, counts: &[(i32, usize)]) {
    let settings = configuration(brokers, &BTreeMap::new(), &BTreeMap::new()).unwrap();
    let mut producer = Producer::new(settings, topic).unwrap();
    for &(number, count) in counts {
        for ordinal in 0..count {
            let text = format!("{number}-{ordinal}");
            producer.send(Some(number), Some(b"key"), text.as_bytes(), &Stop::default()).unwrap();
        }
    }
    producer.finish(&Stop::default()).unwrap();
}

#[derive(Default)]
struct Read {
    /// Per partition number, offsets and payloads.
    records: BTreeMap<i32, Vec<(i64, String)>>,
    marks: Vec<Mark>,
}

impl Read {
    /// Polls once more.
    fn poll(&mut self, source: &mut KafkaSource, bytes_max: usize) -> Polled {
        let mut batch = Records::default();
        let polled = source.poll(bytes_max, &mut batch).unwrap();
        for record in &batch.records {
            let text = match record.payload {
                Payload::Bytes(slice) => String::from_utf8(batch.arena.bytes(slice).to_owned()).unwrap(),
                other => format!("{other:?}"),
            };
            let key = record.key.map(|key| batch.arena.bytes(key));
            assert!(key.is_some() && record.received_at.is_some_and(|at| at.micros() > 0));
            self.records.entry(record.position.partition.number).or_default().push((record.position.offset, text));
        }
        self.marks.extend(&batch.marks);
        if polled == Polled::Nothing {
            std::thread::sleep(Duration::from_millis(2));
        }
        polled
    }

    fn until(&mut self, source: &mut KafkaSource, what: impl Fn(&Read, Polled) -> bool) {
        let begun = Instant::now();
        loop {
            let polled = self.poll(source, 1 << 20);
            if what(self, polled) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "waited too long; {:?}", self.marks);
        }
    }

    fn all(source: &mut KafkaSource) -> Read {
        let mut read = Read::default();
        read.until(source, |_, polled| polled == Polled::End);
        read
    }

    fn count(&self) -> usize {
        self.records.values().map(Vec::len).sum()
    }

    fn marked(&self, is_it: impl Fn(&Mark) -> bool) -> usize {
        self.marks.iter().filter(|mark| is_it(mark)).count()
    }
}

fn expected(number: i32, range: std::ops::Range<usize>) -> Vec<(i64, String)> {
    range.map(|ordinal| (ordinal as i64, format!("{number}-{ordinal}"))).collect()
}

#[test]
fn several_partitions_are_read_to_their_ends_in_order_and_empty_ones_end_at_once() {
    let (_cluster, brokers) = cluster(4);
    produce(&brokers, TOPIC, &[(0, 3_000), (1, 1), (3, 700)]);
    let mut source = Setup::new(&brokers).open().unwrap();
    let read = Read::all(&mut source);
    for (number, count) in [(0, 3_000), (1, 1), (3, 700)] {
        assert_eq!(read.records[&number], expected(number, 0..count));
    }
    assert_eq!(read.records.len(), 3);
    assert_eq!(read.marked(|mark| matches!(mark, Mark::Opened(_))), 4);
    assert_eq!(read.marked(|mark| matches!(mark, Mark::Ended(_))), 4);
    assert!(source.lag().iter().all(|lag| lag.records == 0));
}

#[test]
fn what_comes_after_the_start_is_behind_the_end() {
    let (_cluster, brokers) = cluster(1);
    produce(&brokers, TOPIC, &[(0, 10)]);
    let mut source = Setup::new(&brokers).open().unwrap();
    produce(&brokers, TOPIC, &[(0, 10)]);
    assert_eq!(Read::all(&mut source).records[&0], expected(0, 0..10));
}

#[test]
fn two_workers_share_two_topics_without_gap_or_overlap() {
    let (cluster, brokers) = cluster(3);
    cluster.create_topic("other", 2, 1).unwrap();
    produce(&brokers, TOPIC, &[(0, 50), (1, 50), (2, 50)]);
    produce(&brokers, "other", &[(0, 20), (1, 20)]);
    let mut setup = Setup::new(&brokers);
    // A topic of outcomes is read like any other.
    setup.spec.outcomes = Some(OutcomeInputs::Topics(vec!["other".into()]));
    let (mut records, mut partitions) = (0, Vec::new());
    for worker in 0..2 {
        setup.share = Share { worker, workers: 2 };
        let mut source = setup.open().unwrap();
        records += Read::all(&mut source).count();
        partitions.extend(source.lag().iter().map(|lag| lag.partition));
    }
    partitions.sort_unstable();
    partitions.dedup();
    assert_eq!((records, partitions.len()), (190, 5));
    setup.share = Share { worker: 17, workers: 40 };
    assert_eq!(Read::all(&mut setup.open().unwrap()).count(), 0, "a worker without partitions ends at once");
}

#[test]
fn a_batch_is_never_more_than_one_record_beyond_what_was_asked_for() {
    let (_cluster, brokers) = cluster(2);
    produce(&brokers, TOPIC, &[(0, 500), (1, 500)]);
    let mut source = Setup::new(&brokers).open().unwrap();
    let (mut read, mut polled) = (Read::default(), Polled::Some);
    while polled != Polled::End {
        let before = read.count();
        polled = read.poll(&mut source, 1);
        assert!(read.count() <= before + 1);
    }
    assert_eq!(read.records[&0], expected(0, 0..500));
    assert_eq!(read.records[&1], expected(1, 0..500));
}

#[test]
fn a_record_over_the_limit_and_a_tombstone_are_delivered_as_such() {
    let (_cluster, brokers) = cluster(1);
    let settings = configuration(&brokers, &BTreeMap::new(), &BTreeMap::new()).unwrap();
    let producer: rdkafka::producer::BaseProducer = settings.create().unwrap();
    use rdkafka::producer::{BaseRecord, Producer as _};
    let record = || BaseRecord::<[u8], [u8]>::to(TOPIC).partition(0).key(b"key");
    producer.send(record().payload(&b"x".repeat(100))).unwrap();
    producer.send(record().payload(&b"x".repeat(101))).unwrap();
    producer.send(record()).unwrap();
    producer.send(record().payload(b"")).unwrap();
    producer.flush(PATIENCE).unwrap();
    let mut setup = Setup::new(&brokers);
    setup.spec.record_bytes_max = 100;
    let read = Read::all(&mut setup.open().unwrap());
    let texts: Vec<&str> = read.records[&0].iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, [&"x".repeat(100), "TooLarge", "Tombstone", ""]);
}

#[test]
fn committed_offsets_are_where_the_next_run_begins_unless_durable_state_says_otherwise() {
    let (_cluster, brokers) = cluster(1);
    produce(&brokers, TOPIC, &[(0, 100)]);
    let mut setup = Setup::new(&brokers);
    setup.spec.start = Start::Committed;
    let mut source = setup.open().unwrap();
    assert_eq!(Read::all(&mut source).count(), 100, "nothing is committed: from the beginning");
    let partition = source.lag()[0].partition;
    source.durable(&[(partition, 40), (Partition { number: 99, ..partition }, 5)]);
    drop(source);
    assert_eq!(Read::all(&mut setup.open().unwrap()).records[&0], expected(0, 40..100));
    setup.resume.insert(partition, 90);
    assert_eq!(Read::all(&mut setup.open().unwrap()).records[&0], expected(0, 90..100));
    setup.resume.insert(partition, 101);
    assert!(setup.error().contains("offset 101 of partition 0 of topic \"bp-obs\": the partition ends at offset 100"));
}

#[test]
fn offsets_reported_right_before_the_source_is_dropped_are_committed() {
    let (_cluster, brokers) = cluster(2);
    produce(&brokers, TOPIC, &[(0, 30), (1, 20)]);
    let mut setup = Setup::new(&brokers);
    setup.spec.start = Start::Committed;
    let mut source = setup.open().unwrap();
    assert_eq!(Read::all(&mut source).count(), 50);
    let partition = |number| Partition { topic: Default::default(), number };
    source.durable(&[(partition(0), 30), (partition(1), 20)]);
    drop(source);
    assert_eq!(Read::all(&mut setup.open().unwrap()).count(), 0);
}

#[test]
fn latest_begins_at_the_end() {
    let (_cluster, brokers) = cluster(1);
    produce(&brokers, TOPIC, &[(0, 5)]);
    let mut setup = Setup::new(&brokers);
    (setup.spec.start, setup.until_end) = (Start::Latest, false);
    let mut source = setup.open().unwrap();
    produce(&brokers, TOPIC, &[(0, 3)]);
    let mut read = Read::default();
    read.until(&mut source, |read, _| read.count() == 3);
    assert_eq!(read.records[&0][0].0, 5);
}

#[test]
fn records_that_retention_took_stop_the_run_and_say_how_many() {
    let (_cluster, brokers) = cluster(1);
    let settings = configuration(&brokers, &BTreeMap::new(), &BTreeMap::new()).unwrap();
    let mut producer = Producer::new(settings, TOPIC).unwrap();
    // The mock forgets what is beyond about 5 MB.
    let payload = vec![b'x'; 500_000];
    (0..20).for_each(|_| producer.send(Some(0), None, &payload, &Stop::default()).unwrap());
    producer.finish(&Stop::default()).unwrap();
    let mut setup = Setup::new(&brokers);
    setup.resume.insert(Partition::default(), 0);
    let error = setup.error();
    assert!(error.contains("retention has deleted the ") && error.contains("source.start"), "{error}");
}

#[test]
fn an_unknown_topic_is_named_with_its_brokers() {
    let (_cluster, brokers) = cluster(1);
    let mut setup = Setup::new(&brokers);
    setup.spec.topics = vec!["bp-obbs".into()];
    let error = setup.error();
    assert_eq!(
        error,
        format!(
            "topic \"bp-obbs\" does not exist at {brokers}, or may not be described by this user; create it or correct source.topics"
        )
    );
}

#[test]
fn a_broker_that_is_not_there_is_an_error_within_the_bound() {
    let mut setup = Setup::new("127.0.0.1:1");
    setup.waits.brokers = Duration::from_secs(2);
    let begun = Instant::now();
    let error = setup.error();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(error.starts_with("could not reach Kafka at 127.0.0.1:1 within ") && error.contains("onnect"), "{error}");
}

#[test]
fn opening_is_given_up_when_a_stop_is_asked_for() {
    let setup = Setup::new("127.0.0.1:1");
    setup.stop.ask();
    assert!(setup.error().contains("stopped before"));
}

#[test]
fn a_broker_that_goes_down_and_comes_back_loses_nothing_and_makes_nobody_idle() {
    let (cluster, brokers) = cluster(2);
    produce(&brokers, TOPIC, &[(0, 10), (1, 10)]);
    let mut setup = Setup::new(&brokers);
    setup.until_end = false;
    setup.spec.idle = crate::time::EventSpan::from_seconds(3_600);
    setup.spec.client.insert("reconnect.backoff.max.ms".into(), "200".into());
    let mut source = setup.open().unwrap();
    let mut read = Read::default();
    read.until(&mut source, |read, _| read.count() == 20);
    cluster.broker_down(1).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(600) {
        assert_ne!(read.poll(&mut source, 1 << 20), Polled::End);
    }
    assert!(source.reading.trouble.last.is_some(), "the trouble was heard of");
    cluster.broker_up(1).unwrap();
    produce(&brokers, TOPIC, &[(0, 10), (1, 10)]);
    read.until(&mut source, |read, _| read.count() == 40);
    assert_eq!(read.records[&1].iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert_eq!(read.marked(|mark| !matches!(mark, Mark::Opened(_))), 0);
}

#[test]
fn a_partition_whose_leader_changes_is_read_on_by_the_new_one() {
    const CHANGES: i32 = 4;
    let cluster = MockCluster::new(2).unwrap();
    cluster.create_topic(TOPIC, 2, 2).unwrap();
    let brokers = cluster.bootstrap_servers();
    let lead = |broker: i32| cluster.partition_leader(TOPIC, 0, Some(broker)).unwrap();
    lead(1);
    produce(&brokers, TOPIC, &[(0, 10), (1, 10)]);
    let mut setup = Setup::new(&brokers);
    setup.until_end = false;
    let mut source = setup.open().unwrap();
    let mut read = Read::default();
    read.until(&mut source, |read, _| read.count() == 20);
    for change in 1..=CHANGES {
        lead(1 + change % 2);
        produce(&brokers, TOPIC, &[(0, 10), (1, 10)]);
        read.until(&mut source, |read, _| read.count() == 20 * (1 + change as usize));
    }
    for offsets in read.records.values() {
        assert!(offsets.iter().map(|(offset, _)| *offset).eq(0..10 * (1 + i64::from(CHANGES))));
    }
}

#[test]
fn an_empty_partition_becomes_idle_once_and_a_record_wakes_it() {
    let (_cluster, brokers) = cluster(2);
    let mut setup = Setup::new(&brokers);
    setup.until_end = false;
    setup.spec.idle = crate::time::EventSpan::from_micros(100_000);
    let mut source = setup.open().unwrap();
    let mut read = Read::default();
    let idle = |number: i32| move |mark: &Mark| matches!(mark, Mark::Idle(partition) if partition.number == number);
    read.until(&mut source, |read, _| read.marked(idle(0)) == 1 && read.marked(idle(1)) == 1);
    produce(&brokers, TOPIC, &[(1, 1)]);
    read.until(&mut source, |read, _| read.marked(idle(1)) == 2);
    assert_eq!((read.count(), read.marked(idle(0))), (1, 1));
}

#[test]
fn trouble_with_a_broker_is_no_proof_of_idleness() {
    let (_cluster, brokers) = cluster(1);
    let mut setup = Setup::new(&brokers);
    setup.until_end = false;
    let mut source = setup.open().unwrap();
    let reading = &mut source.reading;
    let now = reading.now + Duration::from_secs(100);
    (reading.now, reading.partitions[0].at_end) = (now, true);
    reading.marks.clear();
    reading.trouble.last = Some(now - Duration::from_secs(59));
    reading.mark_idle(Duration::from_secs(60));
    assert!(reading.marks.is_empty());
    reading.trouble.last = Some(now - Duration::from_secs(61));
    reading.mark_idle(Duration::from_secs(60));
    assert_eq!(reading.marks.len(), 1);
}

#[test]
fn offsets_without_records_do_not_keep_a_partition_from_ending() {
    let (_cluster, brokers) = cluster(1);
    produce(&brokers, TOPIC, &[(0, 5)]);
    let mut source = Setup::new(&brokers).open().unwrap();
    // As after a transaction: the last offset is its marker, and only the end of the partition tells.
    source.reading.partitions[0].end = 5;
    let reading = &mut source.reading;
    reading.partitions[0].position = 4;
    reading.marks.clear();
    let eof = Fetched::Problem { topic: Some(TOPIC), number: 0, offset: 5, code: Code::PartitionEOF, text: "" };
    reading.take(eof, &mut Records::default());
    assert_eq!(reading.marks, [Mark::Ended(Partition::default())]);
    assert_eq!(reading.partitions[0].position, 5);
}

#[test]
fn an_offset_that_vanishes_while_reading_stops_the_run_with_the_way_out() {
    let (_cluster, brokers) = cluster(1);
    produce(&brokers, TOPIC, &[(0, 5)]);
    let mut source = Setup::new(&brokers).open().unwrap();
    let problem = |code| Fetched::Problem { topic: Some(TOPIC), number: 0, offset: 0, code, text: "" };
    source.reading.take(problem(Code::BrokerTransportFailure), &mut Records::default());
    assert!(source.reading.failed.is_none(), "what waiting cures is no error");
    source.reading.take(problem(Code::AutoOffsetReset), &mut Records::default());
    let error = source.poll(1, &mut Records::default()).unwrap_err().to_string();
    assert!(error.starts_with("offset 0 of partition 0 of topic \"bp-obs\" is not there any more"), "{error}");
    assert!(error.contains(ACCEPT_LOSS));
}

#[test]
fn a_stop_ends_the_source_but_not_its_partitions() {
    let (_cluster, brokers) = cluster(1);
    produce(&brokers, TOPIC, &[(0, 5)]);
    let setup = Setup::new(&brokers);
    let mut source = setup.open().unwrap();
    setup.stop.ask();
    let mut read = Read::default();
    assert_eq!(read.poll(&mut source, 1 << 20), Polled::End);
    assert!(read.marks.is_empty());
}

#[test]
fn the_embedded_broker_loses_nothing_though_it_forgets_what_is_old() {
    let embedded = Embedded::start(&[(TOPIC, 2)]).unwrap();
    let stop = Stop::default();
    // 24 MB over two partitions: more than twice what the mock keeps.
    let generator = Generator::new(&Profile::clean(), 1, 100, 20_000);
    let feeder = embedded.feed(synthetic(generator), 0, &stop).unwrap();
    let mut setup = Setup::new(embedded.brokers());
    (setup.until_end, setup.progress) = (false, Some(embedded.progress()));
    let mut source = setup.open().unwrap();
    let mut read = Read::default();
    read.until(&mut source, |read, _| read.count() == 20_100);
    for records in read.records.values() {
        assert!(records.iter().enumerate().all(|(ordinal, (offset, _))| ordinal as i64 == *offset));
    }
    assert_eq!(feeder.join().unwrap(), 20_100);
}

#[test]
fn a_feeder_that_is_joined_for_reading_ends_when_all_was_read_and_not_before() {
    let broker = Embedded::start(&[(TOPIC, 2)]).unwrap();
    let mut setup = Setup::new(broker.brokers());
    (setup.until_end, setup.progress) = (false, Some(broker.progress()));
    let records = (0..100).map(|lane| Feed { topic: 0, lane, key: Some(b"k".to_vec()), payload: b"x".to_vec() });
    let feeder = broker.feed(records, 0, &Stop::default()).unwrap();
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(feeder.join_read(&Stop::default()).unwrap()).unwrap());
    assert!(ended.recv_timeout(Duration::from_millis(500)).is_err(), "nothing has been read");
    let (mut source, mut read) = (setup.open().unwrap(), Read::default());
    while ended.try_recv().is_err() {
        read.poll(&mut source, 1);
    }
    assert_eq!(read.count(), 100);
}

#[test]
fn a_feeder_waits_for_its_reader_and_gives_up_when_asked() {
    let embedded = Embedded::start(&[(TOPIC, 1)]).unwrap();
    let stop = Stop::default();
    let endless = std::iter::repeat_with(|| Feed { topic: 0, lane: 0, key: None, payload: vec![b'x'; 100_000] });
    let feeder = embedded.feed(endless, 0, &stop).unwrap();
    let begun = Instant::now();
    while feeder.produced() < 20 && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(feeder.produced(), 20, "2 MiB hold 20 records of 100 kB and no more");
    assert!(!feeder.finished());
    stop.ask();
    assert_eq!(feeder.join().unwrap(), 20);
}

/// The mock cannot add partitions to a topic; so they are there, and the source begins without knowing of them.
#[test]
fn partitions_that_are_added_are_read_from_their_beginning_by_whose_they_are() {
    for workers in [1, 2, 3] {
        let (_cluster, brokers) = cluster(5);
        produce(&brokers, TOPIC, &[(0, 3), (2, 20), (3, 7), (4, 1)]);
        let mut counts = BTreeMap::new();
        for worker in 0..workers {
            let mut setup = Setup::new(&brokers);
            (setup.share, setup.until_end, setup.spec.discovery_seconds) = (Share { worker, workers }, false, 1);
            setup.spec.start = Start::Latest;
            let mut source = setup.open_before(2);
            let ours = (0..5).filter(|number| setup.share.takes(TOPIC, *number)).count();
            let mut read = Read::default();
            // Mark, first offset and records come in this order.
            read.until(&mut source, |read, _| read.marked(|mark| matches!(mark, Mark::Opened(_))) == ours);
            let expected_count: usize =
                [0, 0, 20, 7, 1].iter().zip(0..).filter(|(_, at)| setup.share.takes(TOPIC, *at)).map(|(n, _)| n).sum();
            read.until(&mut source, |read, _| read.count() == expected_count);
            assert!(source.lag().is_sorted_by_key(|lag| lag.partition) && source.lag().len() == ours);
            for (number, records) in read.records {
                assert_eq!(records, expected(number, 0..records.len()), "{workers} workers");
                counts.insert(number, records.len());
            }
        }
        assert_eq!(
            counts,
            BTreeMap::from([(2, 20), (3, 7), (4, 1)]),
            "{workers} workers; what is old begins at the end"
        );
    }
}

#[test]
fn a_partition_that_is_added_says_where_it_begins_before_its_first_record() {
    let (_cluster, brokers) = cluster(2);
    produce(&brokers, TOPIC, &[(1, 50)]);
    let mut setup = Setup::new(&brokers);
    (setup.until_end, setup.spec.discovery_seconds) = (false, 1);
    let mut source = setup.open_before(1);
    let mut read = Read::default();
    let added = |mark: &Mark| matches!(mark, Mark::Opened(partition) if partition.number == 1);
    read.until(&mut source, |read, _| read.marked(added) == 1);
    assert_eq!((read.count(), source.lag()[1].position), (0, 0));
    read.until(&mut source, |read, _| read.count() == 50);
}

#[test]
fn what_came_while_nobody_looked_is_read_from_its_beginning() {
    let (_cluster, brokers) = cluster(2);
    produce(&brokers, TOPIC, &[(0, 5), (1, 5)]);
    let mut setup = Setup::new(&brokers);
    setup.spec.start = Start::Latest;
    setup.resume = BTreeMap::from([(Partition::default(), 5)]);
    let read = Read::all(&mut setup.open().unwrap());
    assert_eq!(read.records, BTreeMap::from([(1, expected(1, 0..5))]));
}

#[test]
fn a_topic_with_fewer_partitions_than_state_knows_is_refused_with_the_way_out() {
    let (_cluster, brokers) = cluster(2);
    let mut setup = Setup::new(&brokers);
    let gone = Partition { number: 2, ..Partition::default() };
    setup.resume = BTreeMap::from([(Partition::default(), 0), (gone, 7)]);
    let error = setup.open().err().unwrap();
    assert!(matches!(error, SourceError::Configuration(_)));
    let text = error.to_string();
    assert!(text.starts_with("partition 2 of topic \"bp-obs\" does not exist any more"), "{text}");
    assert!(text.contains(ACCEPT_LOSS));
}

/// The mock has no controller, which alone knows ids: a start goes on without.
#[test]
fn topics_whose_ids_nobody_tells_have_none() {
    let (_cluster, brokers) = cluster(2);
    let setup = Setup::new(&brokers);
    let ids = start::topic_ids(&setup.spec, &topics(&setup.spec).unwrap(), &setup.stop, setup.waits).unwrap();
    assert!(ids.is_empty(), "{ids:?}");
}

/// Against a real broker: `WINDKESSEL_TEST_KAFKA=host:port`.
#[test]
fn partitions_are_added_and_topics_made_anew_on_a_real_broker() {
    use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
    let Ok(brokers) = std::env::var("WINDKESSEL_TEST_KAFKA") else {
        println!("skipped: WINDKESSEL_TEST_KAFKA names no broker");
        return;
    };
    let topic = format!("windkessel-test-added-{}", std::process::id());
    let settings = configuration(&brokers, &BTreeMap::new(), &BTreeMap::new()).unwrap();
    let admin: AdminClient<rdkafka::client::DefaultClientContext> = settings.create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let wait = AdminOptions::new();
    let make = || runtime.block_on(admin.create_topics(&[NewTopic::new(&topic, 1, TopicReplication::Fixed(1))], &wait));
    make().unwrap();
    let mut setup = Setup::new(&brokers);
    setup.waits.topic = Duration::from_secs(10);
    (setup.spec.topics, setup.until_end, setup.spec.discovery_seconds) = (vec![topic.clone()], false, 1);
    let mut source = setup.open().unwrap();
    produce(&brokers, &topic, &[(0, 10)]);
    let mut read = Read::default();
    read.until(&mut source, |read, _| read.count() == 10);
    runtime.block_on(admin.create_partitions(&[NewPartitions::new(&topic, 3)], &wait)).unwrap();
    let opened = |mark: &Mark| matches!(mark, Mark::Opened(_));
    read.until(&mut source, |read, _| read.marked(opened) == 3);
    produce(&brokers, &topic, &[(1, 10), (2, 10)]);
    read.until(&mut source, |read, _| read.count() == 30);
    let ids =
        |setup: &Setup| start::topic_ids(&setup.spec, &topics(&setup.spec).unwrap(), &setup.stop, setup.waits).unwrap();
    let before = ids(&setup);
    assert_eq!(before.keys().collect::<Vec<_>>(), [&topic]);
    assert_eq!(ids(&setup), before);
    runtime.block_on(admin.delete_topics(&[&topic], &wait)).unwrap();
    while make().unwrap().iter().any(Result::is_err) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let begun = Instant::now();
    let why = loop {
        assert!(begun.elapsed() < PATIENCE, "nobody noticed");
        match source.poll(1 << 20, &mut Records::default()) {
            Err(why) => break why,
            Ok(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert!(matches!(&why, SourceError::Configuration(text) if text.contains(ACCEPT_LOSS)), "{why}");
    assert_ne!(ids(&setup), before);
}

/// Against a real broker: `WINDKESSEL_TEST_KAFKA=host:port`.
#[test]
fn transactions_on_a_real_broker_are_read_to_their_end() {
    let Ok(brokers) = std::env::var("WINDKESSEL_TEST_KAFKA") else {
        println!("skipped: WINDKESSEL_TEST_KAFKA names no broker");
        return;
    };
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
    let topic = format!("windkessel-test-{}", std::process::id());
    let mut settings = configuration(&brokers, &BTreeMap::new(), &BTreeMap::new()).unwrap();
    settings.set("transactional.id", &topic);
    let producer: BaseProducer = settings.create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    for commit in [true, false, true, false] {
        producer.begin_transaction().unwrap();
        for ordinal in 0..100 {
            let payload = format!("{commit}-{ordinal}");
            let record = BaseRecord::<[u8], [u8]>::to(&topic).partition(0).key(b"key").payload(payload.as_bytes());
            producer.send(record).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
        if commit {
            producer.commit_transaction(PATIENCE).unwrap()
        } else {
            producer.abort_transaction(PATIENCE).unwrap()
        }
    }
    let mut setup = Setup::new(&brokers);
    setup.spec.topics = vec![topic];
    let mut source = setup.open().unwrap();
    let read = Read::all(&mut source);
    assert!(read.records[&0].iter().all(|(_, text)| text.starts_with("true-")));
    assert_eq!((read.count(), read.marked(|mark| matches!(mark, Mark::Ended(_)))), (200, source.lag().len()));
    assert_eq!(source.lag()[0].position, 404, "400 records and 4 markers");
}
