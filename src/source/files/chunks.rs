//! Bytes of a file in chunks, decompressed; standard input through a thread, because it may wait for somebody to type.
//!
//! Limit: [`CHUNK_BYTES`] at a time, and [`CHUNKS_WAITING_MAX`] chunks of standard input waiting.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;

use super::find::{Input, Packing};

/// Large enough that a call costs nothing beside its bytes, small enough to stay in the cache.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// Chunks of standard input that wait to be taken; then the writer on its other side waits.
const CHUNKS_WAITING_MAX: usize = 8;

/// A file that is being read.
pub(super) enum Chunks {
    /// A file.
    File(Box<dyn Read>, Vec<u8>),
    /// Standard input.
    Stdin(Receiver<io::Result<Vec<u8>>>, Vec<u8>),
}

/// What comes next.
pub(super) enum Next<'a> {
    Bytes(&'a [u8]),
    /// Standard input has nothing yet.
    Later,
    End,
}

impl Chunks {
    pub(super) fn open(input: &Input) -> io::Result<Self> {
        if input.topic == super::STDIN_TOPIC {
            return Ok(Chunks::Stdin(stdin(), Vec::new()));
        }
        let file = BufReader::with_capacity(64 << 10, File::open(&input.path)?);
        let reader: Box<dyn Read> = match input.packing {
            Packing::Plain => Box::new(file.into_inner()),
            // Several members in one file are one stream, as `cat a.gz b.gz` makes them.
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
        };
        Ok(Chunks::File(reader, vec![0; CHUNK_BYTES]))
    }

    pub(super) fn next(&mut self) -> io::Result<Next<'_>> {
        match self {
            Chunks::File(reader, buffer) => loop {
                match reader.read(buffer) {
                    Ok(0) => return Ok(Next::End),
                    Ok(count) => return Ok(Next::Bytes(&buffer[..count])),
                    Err(why) if why.kind() == ErrorKind::Interrupted => {}
                    Err(why) => return Err(why),
                }
            },
            Chunks::Stdin(chunks, buffer) => match chunks.try_recv() {
                Ok(chunk) => {
                    *buffer = chunk?;
                    Ok(Next::Bytes(buffer))
                }
                Err(TryRecvError::Empty) => Ok(Next::Later),
                Err(TryRecvError::Disconnected) => Ok(Next::End),
            },
        }
    }
}

/// A thread that reads standard input until its end, or until nobody listens any more.
fn stdin() -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = sync_channel(CHUNKS_WAITING_MAX);
    thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let answer = match stdin.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => {
                    chunk.truncate(count);
                    Ok(chunk)
                }
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                Err(why) => Err(why),
            };
            let failed = answer.is_err();
            if sender.send(answer).is_err() || failed {
                return;
            }
        }
    });
    receiver
}
