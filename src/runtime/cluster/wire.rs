//! A data connection as timely reads and writes it. Timely panics when one breaks; this says instead that the peer has gone, and the run ends in order.
//!
//! Invariants:
//!
//! 1. Timely is never told of an error or of an end that comes too early: the run fails ([`Peers::lost`]), and the thread waits for the process to end.
//! 2. An end is in order after timely's last frame alone, which is empty.
//!
//! Limits: a frame of more than [`FRAME_BYTES_MAX`] is no peer's, and ends the run before anything is reserved for it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use timely::communication::allocator::zero_copy::stream::Stream;

use super::peers::Peers;

/// Far above what a batch can be: an epoch's records are some megabytes.
pub(super) const FRAME_BYTES_MAX: u64 = 1 << 30;

/// Timely's header is six numbers of eight bytes, big-endian; the fifth is the length of what follows.
const HEADER_BYTES: usize = 48;
const LENGTH_AT: usize = 32;

/// One end of a data connection.
pub struct Wire {
    stream: TcpStream,
    process: usize,
    peers: Peers,
    frames: Frames,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, process: usize, peers: Peers) -> Self {
        Wire { stream, process, peers, frames: Frames::new() }
    }

    fn lost(&self, why: &str) -> ! {
        self.peers.lost_data(self.process, why);
        loop {
            std::thread::park();
        }
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(into) {
                Ok(0) if !self.frames.ended => self.lost("it closed the connection"),
                Ok(count) => match self.frames.pass(&into[..count]) {
                    Ok(()) => return Ok(count),
                    Err(length) => self.lost(&format!("it announced a frame of {length} bytes")),
                },
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.lost(&error.to_string()),
            }
        }
    }
}

impl Write for Wire {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        loop {
            match self.stream.write(from) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.lost(&error.to_string()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Stream for Wire {
    fn try_clone(&self) -> io::Result<Self> {
        let stream = self.stream.try_clone()?;
        Ok(Wire { stream, process: self.process, peers: self.peers.clone(), frames: Frames::new() })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self.stream.shutdown(how) {
            // The peer was quicker: it has all it needs.
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }
}

/// Follows timely's frames through the bytes that are read.
#[derive(Debug)]
struct Frames {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that are there.
    filled: usize,
    /// Bytes of the current frame that are to come after its header.
    left: usize,
    /// The empty frame has come.
    ended: bool,
}

impl Frames {
    fn new() -> Self {
        Frames { header: [0; HEADER_BYTES], filled: 0, left: 0, ended: false }
    }

    /// The length of a frame that is too long is the error.
    fn pass(&mut self, mut bytes: &[u8]) -> Result<(), u64> {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let taken = if self.left > 0 { 0 } else { (HEADER_BYTES - self.filled).min(bytes.len()) };
            self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == HEADER_BYTES {
                let length =
                    self.header[LENGTH_AT..].iter().take(8).fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
                if length > FRAME_BYTES_MAX {
                    return Err(length);
                }
                (self.filled, self.left, self.ended) = (0, length as usize, length == 0);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    //! Proves that frames are followed whatever pieces they come in.
    use super::*;

    fn frame(length: u64) -> Vec<u8> {
        let header: Vec<u8> =
            [7, 1, 0, 1, length, 9].into_iter().flat_map(|number: u64| number.to_be_bytes()).collect();
        [header, vec![0; length.min(1 << 10) as usize]].concat()
    }

    #[test]
    fn an_end_is_in_order_after_the_empty_frame_alone_in_whatever_pieces_it_comes() {
        let bytes: Vec<u8> = [frame(1), frame(100), frame(47), frame(48)].concat();
        for piece in 1..bytes.len() {
            let mut frames = Frames::new();
            bytes.chunks(piece).for_each(|piece| frames.pass(piece).unwrap());
            assert!(!frames.ended, "frames end in zeros, and none is empty");
            frame(0).chunks(piece).for_each(|piece| frames.pass(piece).unwrap());
            assert!(frames.ended, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_frame_may_be_as_long_as_the_limit_says_and_no_longer() {
        assert_eq!(Frames::new().pass(&frame(FRAME_BYTES_MAX)), Ok(()));
        assert_eq!(Frames::new().pass(&frame(FRAME_BYTES_MAX + 1)), Err(FRAME_BYTES_MAX + 1));
        assert_eq!(Frames::new().pass(&frame(u64::MAX)), Err(u64::MAX));
    }
}
