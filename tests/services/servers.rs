//! Starts a real Apache Kafka (KRaft) and a real Elasticsearch on loopback, from Maven Central, once for all tests; they end with the tests.
//!
//! They are installed once into `$WINDKESSEL_TEST_SERVERS` (default `~/.cache/windkessel-test-servers`). `WINDKESSEL_TEST_KAFKA` (host:port) and
//! `WINDKESSEL_TEST_ELASTICSEARCH` (URL) may name running ones, which are then never killed. Where Java or Maven is missing, [`servers`]
//! answers `None` and says why: the caller skips, or fails if `WINDKESSEL_REQUIRE_SERVICES=1`.

#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The newest broker that was seen to run on Java 17.
const KAFKA_VERSION: &str = "4.3.1";
/// The server of the 8 line that Maven Central carries.
const ELASTICSEARCH_VERSION: &str = "8.19.21";
/// A server that speaks S3, conditional writes included.
const MOTO_VERSION: &str = "5.2.5";
/// How long a server may take to answer.
const START_MAX: Duration = Duration::from_secs(180);
/// Any 22-character base64 text is a cluster id.
const CLUSTER_ID: &str = "d2luZGtlc3NlbC10ZXN0cw";

/// Runs a server in a process group, and kills it and removes its folder when standard input closes: the tests have ended, however.
const KEEPER: &str = r#"folder=$1; shift; "$@" </dev/null & server=$!; cat >/dev/null; kill -9 $server; sleep 1; rm -rf "$folder"; kill -9 0"#;

static SERVERS: OnceLock<Option<Mutex<Servers>>> = OnceLock::new();

/// Both servers.
pub(crate) struct Servers {
    pub(crate) kafka: Server,
    pub(crate) elasticsearch: Server,
}

/// Both servers, for one test at a time: two cores have enough to do, and some tests kill them.
pub(crate) fn servers(test: &str) -> Option<MutexGuard<'static, Servers>> {
    let found = SERVERS.get_or_init(|| {
        let other = std::thread::spawn(kafka);
        let elasticsearch = elasticsearch();
        let kafka = other.join().expect("the broker starts");
        Some(Mutex::new(Servers { kafka: kafka?, elasticsearch: elasticsearch? }))
    });
    let Some(servers) = found else {
        eprintln!("SKIPPED {test}: no servers");
        return None;
    };
    let mut servers = servers.lock().unwrap_or_else(PoisonError::into_inner);
    // A test that failed may have left one dead.
    servers.kafka.revive();
    servers.elasticsearch.revive();
    Some(servers)
}

/// A running server.
pub(crate) struct Server {
    child: Option<Child>,
    /// How clients reach it: `host:port` or a URL.
    pub(crate) address: String,
    folder: PathBuf,
    /// A broker's: a port that it tells clients to come to, where a test may put a proxy, and where that should lead; `host:port`.
    pub(crate) proxied: Option<(u16, String)>,
    /// How it is started; `None` if it is not ours.
    start: Option<Box<dyn Fn() -> Child + Send>>,
}

impl Server {
    /// True if a test may kill it; else says that the test is skipped.
    pub(crate) fn is_ours(&self, test: &str) -> bool {
        if self.start.is_none() {
            eprintln!("SKIPPED {test}: the server at {} is not ours to kill", self.address);
        }
        self.start.is_some()
    }

    /// Kills it and everything that it started, as `kill -9` does; its data stays.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let killed = Command::new("sh").arg("-c").arg(format!("kill -9 -{}", child.id())).status();
            assert!(killed.is_ok_and(|status| status.success()), "the group of the server is there");
            let _ = child.wait();
            let begun = Instant::now();
            while port_is_open(&self.address) && begun.elapsed() < START_MAX {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Starts it again on the same port with the same data, and waits until it answers.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.revive();
    }

    fn revive(&mut self) {
        if let (None, Some(start)) = (&self.child, &self.start) {
            self.child = Some(start());
            self.wait();
        }
    }

    fn wait(&mut self) {
        let begun = Instant::now();
        while !answers(&self.address) {
            if let Some(status) =
                self.child.as_mut().and_then(|child| child.try_wait().expect("a child can be waited for"))
            {
                panic!("{} ended while starting: {status}\n{}", self.address, log_tail(&self.folder));
            }
            assert!(begun.elapsed() < START_MAX, "{} does not answer\n{}", self.address, log_tail(&self.folder));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A broker, or `None` (said on standard error) where it cannot be had.
pub(crate) fn kafka() -> Option<Server> {
    if let Ok(address) = std::env::var("WINDKESSEL_TEST_KAFKA") {
        return Some(foreign(address));
    }
    let libraries = available("Kafka", install_kafka)?;
    let folder = scratch("kafka");
    let (port, controller) = (free_port(), free_port());
    let (proxy, behind) = (free_port(), free_port());
    let classes = format!("{}/*", libraries.display());
    let logs = folder.join("data");
    let properties = folder.join("server.properties");
    let settings = [
        "process.roles=broker,controller".to_owned(),
        "node.id=1".into(),
        format!("controller.quorum.voters=1@127.0.0.1:{controller}"),
        format!(
            "listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{behind},CONTROLLER://127.0.0.1:{controller}"
        ),
        format!("advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{proxy}"),
        "inter.broker.listener.name=PLAINTEXT".into(),
        "controller.listener.names=CONTROLLER".into(),
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT".into(),
        format!("log.dirs={}", logs.display()),
        "offsets.topic.replication.factor=1".into(),
        "offsets.topic.num.partitions=4".into(),
        "transaction.state.log.replication.factor=1".into(),
        "transaction.state.log.min.isr=1".into(),
        "transaction.state.log.num.partitions=4".into(),
        "group.initial.rebalance.delay.ms=0".into(),
    ];
    fs::write(&properties, settings.join("\n")).expect("the scratch folder is writable");
    let format = Command::new("java")
        .args(["-Xmx128m", "-cp", &classes, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
        .arg(&properties)
        .output()
        .expect("java runs");
    assert!(format.status.success(), "kafka.tools.StorageTool: {}", String::from_utf8_lossy(&format.stdout));
    let (log, home) = (folder.join("server.log"), folder.clone());
    let start = move || {
        let mut command = Command::new("java");
        command.args(["-Xms256m", "-Xmx512m", "-cp", &classes, "kafka.Kafka"]).arg(&properties);
        spawn(&command, &home, &log)
    };
    let mut server = started(format!("127.0.0.1:{port}"), folder, Box::new(start));
    server.proxied = Some((proxy, format!("127.0.0.1:{behind}")));
    Some(server)
}

/// An Elasticsearch without security, or `None` where it cannot be had.
pub(crate) fn elasticsearch() -> Option<Server> {
    if let Ok(url) = std::env::var("WINDKESSEL_TEST_ELASTICSEARCH") {
        return Some(foreign(url.trim_end_matches('/').to_owned()));
    }
    let distribution = available("Elasticsearch", install_elasticsearch)?;
    let folder = scratch("elasticsearch");
    let (port, transport) = (free_port(), free_port());
    let config = folder.join("config");
    copy_folder(&distribution.join("config"), &config);
    let settings = [
        "cluster.name: windkessel-tests".to_owned(),
        "discovery.type: single-node".into(),
        "network.host: 127.0.0.1".into(),
        format!("http.port: {port}"),
        format!("transport.port: {transport}"),
        format!("path.data: {}", folder.join("data").display()),
        format!("path.logs: {}", folder.join("logs").display()),
        "cluster.routing.allocation.disk.threshold_enabled: false".into(),
        "xpack.security.enabled: false".into(),
    ];
    fs::write(config.join("elasticsearch.yml"), settings.join("\n")).expect("the scratch folder is writable");
    fs::create_dir_all(folder.join("tmp")).expect("the scratch folder is writable");
    let log = folder.join("server.log");
    let scratch = folder.clone();
    let start = move || {
        // It refuses to run as root; a user namespace shows it another uid over the same files.
        let binary = distribution.join("bin/elasticsearch");
        let mut command = if is_root() {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-user=1000", "--map-group=1000"]).arg(binary);
            command
        } else {
            Command::new(binary)
        };
        command
            .env("ES_PATH_CONF", &config)
            .env("ES_TMPDIR", scratch.join("tmp"))
            .env("ES_JAVA_OPTS", "-Xms1g -Xmx1g")
            .env("ES_JAVA_HOME", java_home());
        spawn(&command, &scratch, &log)
    };
    Some(started(format!("http://127.0.0.1:{port}"), folder, Box::new(start)))
}

/// A server that speaks S3 and keeps everything in memory, or `None` where it cannot be had.
pub(crate) fn s3() -> Option<Server> {
    s3_with("http", |_| Vec::new())
}

/// The same over TLS, with a certificate of `authority.pem` in its folder, which nobody else trusts.
pub(crate) fn s3_over_tls() -> Option<(Server, PathBuf)> {
    let server = s3_with("https", certify)?;
    let authority = server.folder.join("authority.pem");
    Some((server, authority))
}

/// The password of [`postgres`]'s only user.
pub(crate) const PASSWORD: &str = "word-that-must-not-appear";

/// A PostgreSQL with passwords and TLS, its certificate of `authority.pem` in the folder; or `None` where it cannot be had.
pub(crate) fn postgres() -> Option<(Server, PathBuf)> {
    let programs = available("PostgreSQL", installed_postgres)?;
    let folder = scratch("postgres");
    let port = free_port();
    certify(&folder);
    fs::write(folder.join("password"), PASSWORD).expect("the scratch folder is writable");
    let (log, home, data) = (folder.join("server.log"), folder.clone(), folder.join("data"));
    // It refuses to run as root; a user namespace shows it another uid over the same files.
    let unroot = || {
        let mut command = Command::new(if is_root() { "unshare" } else { "env" });
        command.args(is_root().then_some(["--user", "--map-user=1000", "--map-group=1000"]).into_iter().flatten());
        command
    };
    let mut init = unroot();
    init.arg(programs.join("initdb"))
        .arg("-D")
        .arg(&data)
        .arg(format!("--pwfile={}", folder.join("password").display()));
    succeed(init.args(["-U", "windkessel", "-A", "scram-sha-256", "-E", "UTF8", "--no-sync"])).expect("initdb");
    fs::set_permissions(folder.join("server.key"), fs::Permissions::from_mode(0o600)).expect("the key is ours");
    let settings = [
        format!("port={port}"),
        "listen_addresses=127.0.0.1".into(),
        "unix_socket_directories=".into(),
        "fsync=off".into(),
        "ssl=on".into(),
        format!("ssl_cert_file={}", folder.join("server.pem").display()),
        format!("ssl_key_file={}", folder.join("server.key").display()),
    ];
    let program = programs.join("postgres");
    let start = move || {
        let mut command = unroot();
        // After a kill it does not start until the last of its predecessor's processes has gone.
        command.args(["sh", "-c", "while :; do \"$0\" \"$@\"; sleep 0.3; done"]).arg(&program).arg("-D").arg(&data);
        command.args(settings.iter().flat_map(|setting| ["-c", setting]));
        spawn(&command, &home, &log)
    };
    let url = format!("postgresql://windkessel@127.0.0.1:{port}/postgres");
    let server = started(url, folder.clone(), Box::new(start));
    Some((server, folder))
}

fn s3_with(scheme: &str, options: impl Fn(&Path) -> Vec<String>) -> Option<Server> {
    let server = available("moto", install_moto)?;
    let folder = scratch("s3");
    let port = free_port();
    let (log, home, options) = (folder.join("server.log"), folder.clone(), options(&folder));
    let start = move || {
        let mut command = Command::new(&server);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).args(&options);
        spawn(&command, &home, &log)
    };
    Some(started(format!("{scheme}://127.0.0.1:{port}"), folder, Box::new(start)))
}

/// Makes a certificate for 127.0.0.1, of the authority in the folder, which is made if there is none; what moto is to be told.
pub(crate) fn certify(folder: &Path) -> Vec<String> {
    let script = "set -e; cd \"$1\"; \
        test -f authority.pem || openssl req -x509 -newkey rsa:2048 -nodes -days 2 \
            -subj /CN=authority -keyout authority.key -out authority.pem; \
        openssl req -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr; \
        printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE' > server.ext; \
        openssl x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile server.ext -out server.pem";
    let made = Command::new("sh").args(["-c", script, "sh"]).arg(folder).output().expect("a shell runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let file = |name: &str| folder.join(name).display().to_string();
    vec!["-c".into(), file("server.pem"), "-k".into(), file("server.key")]
}

fn started(address: String, folder: PathBuf, start: Box<dyn Fn() -> Child + Send>) -> Server {
    let mut server = Server { child: None, address, folder, proxied: None, start: Some(start) };
    server.revive();
    server
}

fn foreign(address: String) -> Server {
    let mut server = Server { child: None, address, folder: PathBuf::new(), proxied: None, start: None };
    server.wait();
    server
}

fn answers(address: &str) -> bool {
    if address.starts_with("https://") {
        return port_is_open(address);
    }
    if address.starts_with("postgresql://") {
        let config = address.parse::<postgres::Config>().map(|mut config| config.password(PASSWORD).clone());
        return config.is_ok_and(|config| config.connect(postgres::NoTls).is_ok());
    }
    match address.strip_prefix("http://") {
        // One of them is Elasticsearch's, the other moto's.
        Some(_) => ["_cluster/health?wait_for_status=yellow&timeout=1s", "moto-api/"]
            .iter()
            .any(|page| ureq::get(format!("{address}/{page}")).call().is_ok_and(|answer| answer.status() == 200)),
        None => {
            use rdkafka::consumer::Consumer;
            let client: Result<rdkafka::consumer::BaseConsumer, _> =
                rdkafka::ClientConfig::new().set("bootstrap.servers", address).set("log_level", "0").create();
            client.is_ok_and(|client| {
                client.fetch_metadata(None, Duration::from_secs(1)).is_ok_and(|metadata| !metadata.brokers().is_empty())
            })
        }
    }
}

fn spawn(server: &Command, folder: &Path, log: &Path) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(log).expect("the scratch folder is writable");
    let errors = log.try_clone().expect("a file can be cloned");
    let mut keeper = Command::new("sh");
    keeper.args(["-c", KEEPER, "keeper"]).arg(folder).arg(server.get_program()).args(server.get_args());
    keeper.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
    keeper.process_group(0).stdin(Stdio::piped()).stdout(log).stderr(errors).spawn().expect("the server starts")
}

/// The installed folder, or a skip that is a failure where services are required.
fn available(name: &str, install: fn() -> Result<PathBuf, String>) -> Option<PathBuf> {
    match install() {
        Ok(folder) => Some(folder),
        Err(why) if std::env::var_os("WINDKESSEL_REQUIRE_SERVICES").is_some_and(|value| value == "1") => {
            panic!("{name} is required and cannot be had: {why}")
        }
        Err(why) => {
            eprintln!("SKIPPED all tests with servers: no {name}: {why}");
            None
        }
    }
}

fn install_kafka() -> Result<PathBuf, String> {
    let folder = cache().join(format!("kafka-{KAFKA_VERSION}"));
    let libraries = folder.join("libs");
    if folder.join("complete").exists() {
        return Ok(libraries);
    }
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
        )
    };
    let pom = format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion><groupId>test</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging><dependencies>{}{}{}{}</dependencies></project>",
        dependency("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
        dependency("org.apache.kafka", "kafka-tools", KAFKA_VERSION),
        dependency("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.1"),
        dependency("org.apache.logging.log4j", "log4j-core", "2.25.1"),
    );
    fs::write(folder.join("pom.xml"), pom).map_err(|error| error.to_string())?;
    let mut maven = Command::new("mvn");
    maven
        .args(["-q", "-B", "-f"])
        .arg(folder.join("pom.xml"))
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", libraries.display()));
    succeed(&mut maven)?;
    fs::write(folder.join("complete"), "").map_err(|error| error.to_string())?;
    Ok(libraries)
}

/// The programs of the newest PostgreSQL that Debian has installed.
fn installed_postgres() -> Result<PathBuf, String> {
    let versions = fs::read_dir("/usr/lib/postgresql").map_err(|error| format!("/usr/lib/postgresql: {error}"))?;
    let programs = versions.flatten().map(|version| version.path().join("bin"));
    let newest = programs.filter(|programs| programs.join("initdb").exists()).max();
    newest.ok_or_else(|| "initdb is not there; the package is postgresql".to_owned())
}

fn install_moto() -> Result<PathBuf, String> {
    // Several tests may be the first.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = cache().join(format!("moto-{MOTO_VERSION}"));
    let server = folder.join("bin/moto_server");
    if folder.join("complete").exists() {
        return Ok(server);
    }
    let mut environment = Command::new("python3");
    environment.args(["-m", "venv", "--clear"]).arg(&folder);
    succeed(&mut environment)?;
    let mut install = Command::new(folder.join("bin/pip"));
    install.args(["install", "--quiet", &format!("moto[server]=={MOTO_VERSION}")]);
    succeed(&mut install)?;
    fs::write(folder.join("complete"), "").map_err(|error| error.to_string())?;
    Ok(server)
}

fn install_elasticsearch() -> Result<PathBuf, String> {
    let folder = cache().join(format!("elasticsearch-{ELASTICSEARCH_VERSION}"));
    if folder.join("bin/elasticsearch").exists() {
        return Ok(folder);
    }
    let parts = cache().join("parts");
    fs::create_dir_all(&parts).map_err(|error| error.to_string())?;
    let artifact = format!("org.elasticsearch.distribution.integ-test-zip:elasticsearch:{ELASTICSEARCH_VERSION}:zip");
    let mut maven = Command::new("mvn");
    maven
        .args(["-q", "-B", "dependency:copy"])
        .arg(format!("-Dartifact={artifact}"))
        .arg(format!("-DoutputDirectory={}", parts.display()));
    succeed(&mut maven)?;
    let mut unzip = Command::new("unzip");
    unzip
        .args(["-q", "-o"])
        .arg(parts.join(format!("elasticsearch-{ELASTICSEARCH_VERSION}.zip")))
        .arg("-d")
        .arg(&parts);
    succeed(&mut unzip)?;
    fs::rename(parts.join(format!("elasticsearch-{ELASTICSEARCH_VERSION}")), &folder)
        .map_err(|error| error.to_string())?;
    Ok(folder)
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("could not run {program}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "{program} failed: {}",
            String::from_utf8_lossy(&output.stdout).lines().take(5).collect::<Vec<_>>().join(" ")
        ))
    }
}

fn cache() -> PathBuf {
    let home = || {
        std::env::var_os("HOME")
            .map(PathBuf::from)
            .unwrap_or_else(std::env::temp_dir)
            .join(".cache/windkessel-test-servers")
    };
    std::env::var_os("WINDKESSEL_TEST_SERVERS").map_or_else(home, PathBuf::from)
}

fn scratch(name: &str) -> PathBuf {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("windkessel-{name}-{}-{count}", std::process::id()));
    fs::create_dir_all(&folder).expect("the temporary folder is writable");
    folder
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn port_is_open(address: &str) -> bool {
    let place = address.split_once("://").map_or(address, |(_, rest)| rest);
    let place = place.split_once('@').map_or(place, |(_, rest)| rest);
    std::net::TcpStream::connect(place.split('/').next().unwrap_or_default()).is_ok()
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

/// The Java that `java` on the path belongs to.
fn java_home() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let java = std::env::split_paths(&path)
        .map(|folder| folder.join("java"))
        .find(|java| java.exists())
        .expect("java is on the path");
    let real = fs::canonicalize(java).expect("java exists");
    real.ancestors().nth(2).expect("java lies in bin/").to_owned()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the scratch folder is writable");
    for entry in fs::read_dir(from).expect("the distribution is readable") {
        let entry = entry.expect("the distribution is readable");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).map(drop).expect("the scratch folder is writable")
        }
    }
}

fn log_tail(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("server.log")).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
