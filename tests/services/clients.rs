//! Plain clients of the two servers: what a topic and an index hold, read without the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message as _};
use rdkafka::producer::BaseProducer;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::support::Row;

pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// One record of a topic.
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) received_at: Option<i64>,
    pub(crate) key: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) headers: BTreeMap<String, String>,
}

/// Whoever writes to topics.
pub(crate) fn producer(brokers: &str) -> BaseProducer {
    ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap()
}

/// Everything committed in a topic, by partition and offset; nothing if there is no such topic.
pub(crate) fn topic(brokers: &str, topic: &str) -> Vec<Record> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", brokers).set("group.id", "reader").set("enable.auto.commit", "false");
    // The last offset of a partition may be the end of a transaction, which is no record.
    client.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = client.set("allow.auto.create.topics", "false").create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), WAIT).unwrap();
    let (mut wanted, mut list) = (BTreeSet::new(), TopicPartitionList::new());
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), WAIT).unwrap();
        if high > low {
            wanted.insert(partition.id());
            list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
        }
    }
    consumer.assign(&list).unwrap();
    let (mut records, begun) = (Vec::new(), Instant::now());
    while !wanted.is_empty() {
        assert!(begun.elapsed() < 6 * WAIT, "{topic} cannot be read to its end");
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = match message {
            Ok(message) => message,
            Err(KafkaError::PartitionEOF(partition)) => {
                wanted.remove(&partition);
                continue;
            }
            Err(_) => continue,
        };
        let header = |header: rdkafka::message::Header<'_, &[u8]>| {
            (header.key.to_owned(), String::from_utf8(header.value.unwrap_or_default().to_owned()).unwrap())
        };
        records.push(Record {
            partition: message.partition(),
            offset: message.offset(),
            received_at: message.timestamp().to_millis().map(|millis| millis * 1_000),
            key: message.key().unwrap_or_default().to_owned(),
            payload: message.payload().unwrap_or_default().to_owned(),
            headers: message.headers().iter().flat_map(|headers| headers.iter()).map(header).collect(),
        });
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

/// A document of an index.
pub(crate) struct Document {
    pub(crate) id: String,
    pub(crate) version: i64,
    pub(crate) source: Row,
}

/// All documents of all indices whose names begin with `stem`, page by page.
pub(crate) fn documents(url: &str, stem: &str) -> Vec<Document> {
    ask(url, "POST", &format!("/{stem}*/_refresh"), None);
    let query = json!({"size": 5_000, "version": true, "sort": ["_doc"]});
    let mut page = ask(url, "POST", &format!("/{stem}*/_search?scroll=2m"), Some(query));
    let mut documents = Vec::new();
    loop {
        let Value::Array(hits) = page["hits"]["hits"].take() else { panic!("no hits in {page}") };
        if hits.is_empty() {
            return documents;
        }
        documents.extend(hits.into_iter().map(|mut hit| {
            let Value::Object(source) = hit["_source"].take() else { panic!("no source") };
            let id = hit["_id"].as_str().unwrap().to_owned();
            Document { id, version: hit["_version"].as_i64().unwrap(), source }
        }));
        page = ask(url, "POST", "/_search/scroll", Some(json!({"scroll": "2m", "scroll_id": page["_scroll_id"]})));
    }
}

/// One request; the answer must be good.
pub(crate) fn ask(url: &str, method: &str, path: &str, body: Option<Value>) -> Value {
    let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
    let request = ureq::http::Request::builder().method(method).uri(format!("{url}{path}"));
    let request = request.header("content-type", "application/json").body(body).unwrap();
    let agent: ureq::Agent = ureq::Agent::config_builder().allow_non_standard_methods(true).build().into();
    let mut answer = agent.run(request).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    let body = answer.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap();
    serde_json::from_slice(&body).unwrap()
}
