//! `windkessel`: arguments, exit codes, nothing else.

use std::process::ExitCode;

use clap::Parser;
use windkessel::cli::{self, Arguments};

// Arrow's and timely's buffers are allocated on one thread and freed on another at a high rate; mimalloc is made for that,
// and glibc's allocator grows resident memory on such loads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main(Arguments::parse())
}
