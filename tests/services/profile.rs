//! Proves that a profile of a flow over a real broker is of the whole topic, also after the flow has read it, and leaves the flow's offsets where they are.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::servers::servers;
use crate::support::{finish, key_file, outcomes, windkessel};

const PARTITIONS: i32 = 2;

/// The offsets that a group has committed in a topic.
fn committed(brokers: &str, group: &str, topic: &str) -> Vec<Offset> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", group).create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition(topic, partition);
    }
    let answer = consumer.committed_offsets(list, Duration::from_secs(60)).unwrap();
    answer.elements().iter().map(|partition| partition.offset()).collect()
}

#[test]
fn a_profile_is_of_the_whole_topic_and_leaves_the_flows_offsets_alone() {
    let Some(servers) = servers("a_profile_is_of_the_whole_topic_and_leaves_the_flows_offsets_alone") else { return };
    let (brokers, topic) = (servers.kafka.address.clone(), format!("profiled-{}", std::process::id()));
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "name = \"profiled\"\n[source]\nbrokers = \"{brokers}\"\ntopics = [\"{topic}\"]\ngroup = \"{topic}\"\n[pseudonymise]\nkey_file = \"x\"\n\
         [http]\nlisten = \"\"\n[sink.ndjson]\npath = \"data\"\n"
    );
    std::fs::write(folder.path().join("flow.toml"), text).unwrap();
    let key = key_file(folder.path());
    let generate = ["generate", "--clean", "--observations", "2000", "--patients", "40", "--partitions", "2"];
    finish(windkessel(folder.path()).args(generate).args(["--brokers", &brokers, "--topic", &topic])).succeeded();

    let ran = finish(windkessel(folder.path()).args(["run", "flow.toml", "--until", "end", "--set", &key])).succeeded();
    assert_eq!(outcomes(&ran.out)["contributed"], 2_000);
    let before = committed(&brokers, &topic, &topic);
    assert!(before.iter().all(|offset| matches!(offset, Offset::Offset(_))), "{before:?}");

    let made = finish(windkessel(folder.path()).args(["profile", "flow.toml", "--set", &key])).succeeded();
    assert!(made.out.starts_with("2000 readings, 40 patients"), "{}", made.out);
    assert_eq!(committed(&brokers, &topic, &topic), before);
}
