//! Requests to Hugging Face or a mirror: answers in JSON, and files, resumed where the server can.

use std::io::Read;
use std::time::Duration;

use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::download::{Failure, Part, Wanted};
use super::{Event, Hub, Progress};

/// An unreachable server must not hold up a start: there may be another source.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that brings nothing for so long is dead.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Attempts in a row that bring nothing before a download is given up.
const MAX_STALLS: u32 = 3;

/// A connection to one endpoint.
pub(super) struct Client<'a> {
    agent: Agent,
    hub: &'a Hub,
}

impl<'a> Client<'a> {
    pub(super) fn new(hub: &'a Hub) -> Result<Self, Failure> {
        if hub.hf_offline {
            return Err(Failure::Source("HF_HUB_OFFLINE is set".into()));
        }
        let agent = Agent::config_builder()
            .user_agent(concat!("halfbyte/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(READ_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            // Files are redirected to a store that must not see the token.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .http_status_as_error(false)
            .build()
            .new_agent();
        Ok(Self { agent, hub })
    }

    /// Address of a file of `repo`. `file` may hold any character.
    pub(super) fn file_url(&self, repo: &str, commit: &str, file: &str) -> String {
        format!("{}/{repo}/resolve/{commit}/{}", self.hub.hf_endpoint, percent_encode(file))
    }

    fn get(&self, url: &str, range: Option<u64>) -> Result<Response<Body>, String> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.hub.hf_token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(start) = range {
            request = request.header("Range", format!("bytes={start}-"));
        }
        request.call().map_err(|e| e.to_string())
    }

    /// The answer to `path`, which is about `what`.
    pub(super) fn json(&self, path: &str, what: &str) -> Result<serde_json::Value, Failure> {
        let mut response = self.get(&format!("{}{path}", self.hub.hf_endpoint), None).map_err(Failure::Source)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                let status = response.status().as_u16();
                return Err(Failure::Source(format!("{what} is not there, private or gated (status {status})")));
            }
            status => return Err(Failure::Source(format!("status {status}"))),
        }
        let text = response.body_mut().read_to_string().map_err(|e| Failure::Source(e.to_string()))?;
        serde_json::from_str(&text).map_err(|e| Failure::Source(format!("the answer is not JSON: {e}")))
    }

    /// Completes `part` and verifies it.
    pub(super) fn download(
        &self,
        url: &str,
        wanted: &Wanted<'_>,
        part: &mut Part,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        if part.len() > wanted.bytes {
            part.restart()?;
        }
        progress(Event::Started { file: wanted.file, from: &self.hub.hf_endpoint, total_bytes: wanted.bytes });
        let resumed = part.len() > 0;
        self.complete(url, wanted, part, progress)?;
        match part.verify(wanted) {
            // What was found here may have been spoilt: a fresh copy decides.
            Err(Failure::Source(_)) if resumed => {
                self.complete(url, wanted, part, progress)?;
                part.verify(wanted)
            }
            verified => verified,
        }
    }

    /// Fetches what is missing, again and again as long as each attempt brings something.
    fn complete(&self, url: &str, wanted: &Wanted<'_>, part: &mut Part, progress: Progress<'_>) -> Result<(), Failure> {
        let (mut stalls, mut received) = (0, false);
        while part.len() < wanted.bytes {
            let before = part.len();
            let Err(failure) = self.attempt(url, wanted, part, progress) else { continue };
            let Failure::Source(why) = failure else { return Err(failure) };
            received |= part.len() > before;
            stalls = if part.len() > before { 0 } else { stalls + 1 };
            if !received || stalls == MAX_STALLS {
                return Err(Failure::Source(why));
            }
            std::thread::sleep(Duration::from_millis(300) * stalls);
        }
        Ok(())
    }

    /// One request for what is missing.
    fn attempt(&self, url: &str, wanted: &Wanted<'_>, part: &mut Part, progress: Progress<'_>) -> Result<(), Failure> {
        let start = part.len();
        let response = self.get(url, (start > 0).then_some(start)).map_err(Failure::Source)?;
        match response.status() {
            StatusCode::OK => part.restart()?,
            StatusCode::PARTIAL_CONTENT if is_range_from(&response, start, wanted.bytes) => {}
            // Not the range that was asked for, or the file has another size: once more, from the start.
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if start > 0 => {
                part.restart()?;
                return self.attempt(url, wanted, part, progress);
            }
            status => return Err(Failure::Source(format!("status {status} for {url}"))),
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 17];
        while part.len() < wanted.bytes {
            progress(Event::Advanced { done_bytes: part.len(), total_bytes: wanted.bytes });
            let n = body.read(&mut buffer).map_err(|e| Failure::Source(e.to_string()))?;
            if n == 0 {
                let len = part.len();
                return Err(Failure::Source(format!("{} ended after {len} of {} bytes", wanted.file, wanted.bytes)));
            }
            part.append(&buffer[..n])?;
        }
        progress(Event::Advanced { done_bytes: part.len(), total_bytes: wanted.bytes });
        Ok(())
    }
}

/// Whether the answer is the rest of a file of `bytes` from `start` on: `Content-Range: bytes START-END/BYTES`.
fn is_range_from(response: &Response<Body>, start: u64, bytes: u64) -> bool {
    let header = response.headers().get("Content-Range").and_then(|h| h.to_str().ok());
    header.is_some_and(|h| h == format!("bytes {start}-{}/{bytes}", bytes - 1))
}

/// Encodes what has a meaning in addresses; `/` stays.
fn percent_encode(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for b in path.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => out.push(char::from(b)),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}
