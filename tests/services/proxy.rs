//! A proxy between a run and a server: it can be slow, let nothing pass, and speak TLS with a certificate that changes.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// How long one side is listened to before it is the other's turn.
const TURN: Duration = Duration::from_millis(5);
/// As much is passed on at once.
const PIECE_BYTES: usize = 16 << 10;

/// A proxy that runs until the test process ends.
pub(crate) struct Proxy {
    /// How clients reach it: `host:port`.
    pub(crate) address: String,
    shared: Arc<Shared>,
}

struct Shared {
    target: String,
    /// Bytes a second that each connection passes on; 0 means as they come.
    rate: AtomicU64,
    still: AtomicBool,
    /// Rises when all connections are to be closed.
    age: AtomicU64,
    tls: Mutex<Option<Arc<ServerConfig>>>,
}

/// Both directions of a connection.
trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

impl Proxy {
    /// On this port (0: any), before a server at `host:port` or a URL.
    pub(crate) fn start(port: u16, target: &str) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            target: target.trim_start_matches("http://").to_owned(),
            rate: AtomicU64::new(0),
            still: AtomicBool::new(false),
            age: AtomicU64::new(0),
            tls: Mutex::new(None),
        });
        let proxy = Proxy { address, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // What goes wrong with a connection is the client's to see.
                std::thread::spawn(move || drop(shared.serve(client)));
            }
        });
        proxy
    }

    /// Each connection passes on so many bytes a second; 0 means as they come.
    pub(crate) fn slow_down(&self, rate: u64) {
        self.shared.rate.store(rate, Ordering::SeqCst);
    }

    /// Nothing passes any more, or does again; connections stay.
    pub(crate) fn stand_still(&self, still: bool) {
        self.shared.still.store(still, Ordering::SeqCst);
    }

    /// Speaks TLS with the certificate and key in this folder; connections with another one are closed.
    pub(crate) fn present(&self, folder: &Path) {
        let certificates = CertificateDer::pem_file_iter(folder.join("server.pem")).unwrap().map(Result::unwrap);
        let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(certificates.collect(), key).unwrap();
        *self.shared.tls.lock().unwrap() = Some(Arc::new(config));
        self.shared.age.fetch_add(1, Ordering::SeqCst);
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) -> std::io::Result<()> {
        let age = self.age.load(Ordering::SeqCst);
        let mut server = TcpStream::connect(&self.target)?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(TURN))?;
            stream.set_nodelay(true)?;
        }
        let tls = self.tls.lock().unwrap().clone();
        let mut client: Box<dyn Stream> = match tls {
            Some(config) => {
                let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
                Box::new(StreamOwned::new(connection, client))
            }
            None => Box::new(client),
        };
        while self.age.load(Ordering::SeqCst) == age {
            if self.still.load(Ordering::SeqCst) {
                std::thread::sleep(TURN);
            } else if !self.pass(&mut client, &mut server)? || !self.pass(&mut server, &mut client)? {
                break;
            }
        }
        Ok(())
    }

    /// Passes on one piece, if there is one; false at the end.
    fn pass(&self, from: &mut impl Read, to: &mut impl Write) -> std::io::Result<bool> {
        let mut piece = [0; PIECE_BYTES];
        let count = match from.read(&mut piece) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(true),
            Err(error) => return Err(error),
        };
        to.write_all(&piece[..count])?;
        to.flush()?;
        let rate = self.rate.load(Ordering::SeqCst);
        if rate > 0 {
            std::thread::sleep(Duration::from_secs_f64(count as f64 / rate as f64));
        }
        Ok(true)
    }
}
