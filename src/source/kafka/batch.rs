//! The one place of unsafe code: librdkafka's batch call and its description of topics, which the safe wrapper does not offer.
//!
//! Measured on this kind of machine (1.2 kB messages, lz4): draining message by message costs 0.73 CPU-seconds a million, by batch 0.45.
//!
//! Invariants:
//!
//! 1. Both queue handles belong to the consumer in the same struct and are destroyed before it, in [`Fetcher`]'s `drop`.
//! 2. A message pointer is either in `slots[next..filled]`, owned by us, or destroyed. Nothing borrowed from a message outlives [`Fetcher::drain`].
//! 3. The batch call aborts the process on anything but messages and consumer errors. So the main queue (logs, errors, commit replies),
//!    which the safe wrapper forwards into the consumer's queue, is taken out again and served by [`Fetcher::events`].
//!
//! It does not decide anything: what a message or an error means is `kafka.rs`, what a description means `discover.rs`.
#![expect(
    unsafe_code,
    reason = "rd_kafka_consume_batch_queue has no safe wrapper, and it saves 40 % of the cost of reading; nor has rd_kafka_DescribeTopics"
)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::ops::ControlFlow;
use std::sync::mpsc::channel;
use std::time::Duration;
use std::{ptr, slice, thread};

use rdkafka::bindings as sys;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

use super::client::Quiet;

/// Most messages taken from librdkafka at once. Few enough that they are still in the cache when they are copied.
const MESSAGES_MAX: usize = 2_048;

/// Closing a consumer takes longer than this only if a commit is under way to a broker that is down, or in the case of [`part_with`].
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// A request that librdkafka's threads hand to each other is on its way within microseconds; this is for a busy machine.
const SETTLE_WAIT: Duration = Duration::from_millis(50);

/// A consumer with its queues.
pub(super) struct Fetcher {
    messages: *mut sys::rd_kafka_queue_t,
    main: *mut sys::rd_kafka_queue_t,
    /// Fetched and not yet looked at: `slots[next..filled]`.
    slots: Vec<*mut sys::rd_kafka_message_t>,
    next: usize,
    filled: usize,
    /// `None` only while being dropped.
    consumer: Option<BaseConsumer<Quiet>>,
}

// SAFETY: librdkafka's handles and messages may be used from any thread; the fetcher owns them, and `&mut self` keeps it to one at a time.
unsafe impl Send for Fetcher {}

/// What the consumer's queue holds.
pub(super) enum Fetched<'a> {
    /// A record.
    Message(Message<'a>),
    /// Something about a partition, or about the client if `topic` is `None`.
    Problem {
        /// The partition's topic.
        topic: Option<&'a str>,
        /// Its number.
        number: i32,
        /// The offset that the problem is about; for the end of a partition, the next offset.
        offset: i64,
        /// What kind.
        code: RDKafkaErrorCode,
        /// librdkafka's words: broker, topic, partition, offset; never a payload or a setting.
        text: &'a str,
    },
}

/// A record, borrowed from librdkafka.
pub(super) struct Message<'a> {
    /// The topic's name.
    pub(super) topic: &'a str,
    /// Equal for two messages of one [`Fetcher::drain`] exactly if they are of one topic: spares comparing names.
    pub(super) topic_token: usize,
    /// The partition's number.
    pub(super) number: i32,
    /// Its offset.
    pub(super) offset: i64,
    /// The broker's timestamp, milliseconds since the Unix epoch.
    pub(super) timestamp_ms: Option<i64>,
    /// The key.
    pub(super) key: Option<&'a [u8]>,
    /// The payload; `None` is a tombstone.
    pub(super) payload: Option<&'a [u8]>,
}

/// What the client says apart from records.
pub(super) enum Event<'a> {
    /// An error that concerns no partition: a broker that cannot be reached, a refused login.
    Error(RDKafkaErrorCode, &'a str),
    /// A line of librdkafka's log, with its syslog level (lower is worse).
    Log(i32, &'a str),
}

impl Fetcher {
    /// Takes over a consumer; `None` if it has no group (then it has no queue either).
    pub(super) fn new(consumer: BaseConsumer<Quiet>) -> Option<Self> {
        let client = consumer.client().native_ptr();
        // SAFETY: `client` is alive as long as `consumer`; both calls return a new reference, destroyed in `drop`.
        let (messages, main) =
            unsafe { (sys::rd_kafka_queue_get_consumer(client), sys::rd_kafka_queue_get_main(client)) };
        let slots = vec![ptr::null_mut(); MESSAGES_MAX];
        let fetcher = Fetcher { messages, main, slots, next: 0, filled: 0, consumer: Some(consumer) };
        if fetcher.messages.is_null() || fetcher.main.is_null() {
            return None;
        }
        // SAFETY: `main` is a valid queue; a null destination ends its forwarding (invariant 3).
        unsafe { sys::rd_kafka_queue_forward(fetcher.main, ptr::null_mut()) };
        Some(fetcher)
    }

    /// The consumer, for everything that has a safe call.
    pub(super) fn consumer(&self) -> &BaseConsumer<Quiet> {
        self.consumer.as_ref().expect("it is taken out only when dropped")
    }

    /// Shows up to [`MESSAGES_MAX`] fetched things to `visit`, until it breaks; what was not shown is shown first next time.
    /// Never waits. Returns how many were shown.
    pub(super) fn drain(&mut self, visit: &mut dyn FnMut(Fetched<'_>) -> ControlFlow<()>) -> usize {
        if self.next == self.filled {
            // SAFETY: `messages` is valid, `slots` has room for as many pointers as it is said to have.
            let count = unsafe {
                sys::rd_kafka_consume_batch_queue(self.messages, 0, self.slots.as_mut_ptr(), self.slots.len())
            };
            (self.next, self.filled) = (0, usize::try_from(count).unwrap_or(0));
        }
        let first = self.next;
        while self.next < self.filled {
            let message = Owned(self.slots[self.next]);
            self.next += 1;
            if visit(message.view()).is_break() {
                break;
            }
        }
        self.next - first
    }

    /// Shows everything that the client has to say. Never waits.
    pub(super) fn events(&mut self, visit: &mut dyn FnMut(Event<'_>)) {
        loop {
            // SAFETY: `main` is valid; the event is ours and destroyed below.
            let event = unsafe { sys::rd_kafka_queue_poll(self.main, 0) };
            if event.is_null() {
                return;
            }
            // SAFETY: `event` is valid until destroyed, and the strings with it; `visit` cannot keep them.
            unsafe {
                match sys::rd_kafka_event_type(event) {
                    sys::RD_KAFKA_EVENT_ERROR => {
                        let code = sys::rd_kafka_event_error(event).into();
                        visit(Event::Error(code, text(sys::rd_kafka_event_error_string(event))));
                    }
                    sys::RD_KAFKA_EVENT_LOG => {
                        let (mut facility, mut line, mut level) = (ptr::null(), ptr::null(), 0);
                        if sys::rd_kafka_event_log(event, &mut facility, &mut line, &mut level) == 0 {
                            visit(Event::Log(level, text(line)));
                        }
                    }
                    _ => {}
                }
                sys::rd_kafka_event_destroy(event);
            }
        }
    }

    /// The end of a partition as the last answer of its broker told it, or `None` before the first. Asks nobody.
    pub(super) fn end_seen(&self, topic: &str, number: i32) -> Option<i64> {
        let topic = CString::new(topic).ok()?;
        let (mut low, mut high) = (-1, -1);
        // SAFETY: the client is alive, the name is terminated, both results are written before they are read.
        let answer = unsafe {
            let client = self.consumer().client().native_ptr();
            sys::rd_kafka_get_watermark_offsets(client, topic.as_ptr(), number, &mut low, &mut high)
        };
        (answer == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        for slot in self.next..self.filled {
            drop(Owned(self.slots[slot]));
        }
        for queue in [self.messages, self.main] {
            if !queue.is_null() {
                // SAFETY: our reference, given up once; the client itself is still there.
                unsafe { sys::rd_kafka_queue_destroy(queue) };
            }
        }
        if let Some(consumer) = self.consumer.take() {
            part_with(consumer);
        }
    }
}

/// Closes and destroys a consumer; returns after [`CLOSE_WAIT`] at the latest.
///
/// librdkafka 2.12 now and then never returns from destroying a consumer: if a metadata request that closing sets off (the coordinator's
/// connection is dropped) is still unsent when its broker is told to terminate, a reference to the broker is lost. So a moment is given to it
/// between closing and destroying, and a worker does not wait for ever.
fn part_with(consumer: BaseConsumer<Quiet>) {
    let (done, is_done) = channel();
    thread::spawn(move || {
        if consumer.close_queue().is_ok() {
            // Serves what closing asks for; commits under way are waited for.
            while !consumer.closed() {
                drop(consumer.poll(Duration::from_millis(20)));
            }
        }
        thread::sleep(SETTLE_WAIT);
        drop(consumer);
        let _ = done.send(());
    });
    if is_done.recv_timeout(CLOSE_WAIT).is_err() {
        tracing::warn!(target: "source", "librdkafka has not closed its connections after {CLOSE_WAIT:?}; they end with the process");
    }
}

/// A message that is ours; destroyed on drop, also when a visitor panics.
struct Owned(*mut sys::rd_kafka_message_t);

impl Owned {
    /// Borrows what it holds, for as long as it is not dropped.
    fn view(&self) -> Fetched<'_> {
        // SAFETY: the pointer came from the batch call and has not been destroyed; librdkafka fills every field.
        unsafe {
            let message = &*self.0;
            let topic = if message.rkt.is_null() { None } else { Some(text(sys::rd_kafka_topic_name(message.rkt))) };
            if message.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Fetched::Problem {
                    topic,
                    number: message.partition,
                    offset: message.offset,
                    code: message.err.into(),
                    text: text(sys::rd_kafka_message_errstr(message)),
                };
            }
            let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
            let timestamp_ms = sys::rd_kafka_message_timestamp(message, &mut kind);
            Fetched::Message(Message {
                topic: topic.unwrap_or(""),
                topic_token: message.rkt as usize,
                number: message.partition,
                offset: message.offset,
                timestamp_ms: (timestamp_ms >= 0).then_some(timestamp_ms),
                key: bytes(message.key.cast(), message.key_len),
                payload: bytes(message.payload.cast(), message.len),
            })
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: ours, and destroyed exactly once.
        unsafe { sys::rd_kafka_message_destroy(self.0) };
    }
}

/// `None` for a null pointer: Kafka tells null from empty.
///
/// # Safety
/// `start` is null or points to `len` bytes that live for `'a`.
unsafe fn bytes<'a>(start: *const u8, len: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start, len) })
}

/// A C string; empty if it is null or not UTF-8 (librdkafka's own texts and legal topic names are ASCII).
///
/// # Safety
/// `start` is null or a terminated string that lives for `'a`.
unsafe fn text<'a>(start: *const c_char) -> &'a str {
    if start.is_null() {
        return "";
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(start) }.to_str().unwrap_or("")
}

/// What the brokers say of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Described {
    /// Its name.
    pub(super) topic: String,
    /// Another one if the topic was deleted and made anew. `None` from brokers that do not number topics (before Kafka 2.8).
    pub(super) id: Option<String>,
    /// The numbers of its partitions; none if there is no such topic, or this user may not know of it.
    pub(super) partitions: Vec<i32>,
}

/// Asks about topics, and waits for the answer for `wait` at most. May be called from any thread.
pub(super) fn describe(
    consumer: &BaseConsumer<Quiet>,
    topics: &[&str],
    wait: Duration,
) -> Result<Vec<Described>, KafkaError> {
    let names: Vec<CString> = topics.iter().filter_map(|topic| CString::new(*topic).ok()).collect();
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let wait_ms = c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: the client outlives the call; names are copied by librdkafka; what is made here is destroyed here, the event (and all that it
    // holds) last of all but the queue, and nothing in between returns or panics.
    unsafe {
        let client = consumer.client().native_ptr();
        let collection = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let options =
            sys::rd_kafka_AdminOptions_new(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        // Fails only for a time out of range, and then the default of a minute stands.
        sys::rd_kafka_AdminOptions_set_request_timeout(options, wait_ms, ptr::null_mut(), 0);
        let queue = sys::rd_kafka_queue_new(client);
        sys::rd_kafka_DescribeTopics(client, collection, options, queue);
        let event = sys::rd_kafka_queue_poll(queue, wait_ms);
        let answer = if event.is_null() {
            Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut))
        } else {
            let answer = match sys::rd_kafka_event_error(event) {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(descriptions(event)),
                error => Err(KafkaError::AdminOp(error.into())),
            };
            sys::rd_kafka_event_destroy(event);
            answer
        };
        sys::rd_kafka_queue_destroy(queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_TopicCollection_destroy(collection);
        answer
    }
}

/// What an answer holds.
///
/// # Safety
/// `event` is a valid event.
unsafe fn descriptions(event: *mut sys::rd_kafka_event_t) -> Vec<Described> {
    // SAFETY: the caller's promise; librdkafka says how long its arrays are, and they live as long as the event. Another event has no result.
    unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        let mut count = 0;
        if result.is_null() {
            return Vec::new();
        }
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let topics = if topics.is_null() { &[] } else { slice::from_raw_parts(topics, count) };
        topics.iter().map(|topic| description(*topic)).collect()
    }
}

/// # Safety
/// `topic` points to a valid description.
unsafe fn description(topic: *const sys::rd_kafka_TopicDescription_t) -> Described {
    // SAFETY: the caller's promise; what is got from the description lives as long as it does, and is copied here.
    unsafe {
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        let numbered = !id.is_null()
            && (sys::rd_kafka_Uuid_most_significant_bits(id), sys::rd_kafka_Uuid_least_significant_bits(id)) != (0, 0);
        let mut count = 0;
        let partitions = sys::rd_kafka_TopicDescription_partitions(topic, &mut count);
        let partitions = if partitions.is_null() { &[] } else { slice::from_raw_parts(partitions, count) };
        Described {
            topic: text(sys::rd_kafka_TopicDescription_name(topic)).to_owned(),
            id: numbered.then(|| text(sys::rd_kafka_Uuid_base64str(id)).to_owned()),
            partitions: partitions.iter().map(|one| sys::rd_kafka_TopicPartitionInfo_partition(*one)).collect(),
        }
    }
}
