//! A registry on loopback (Debian's docker-registry) that stands for every registry that the tests name: the images are
//! pushed by HTTP, and `certs.d/HOST/hosts.toml` sends the server there, as it would for containerd.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use testimage::{Blob, Image};

use crate::images::Published;
use crate::process::{Background, Program};

/// Who is answered for.
const HOSTS: [&str; 3] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io"];
/// How long the registry may take to start or to answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A running registry; its files are below the directory that it was given.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    /// None while it is away.
    process: Option<Background>,
    dir: PathBuf,
    certs: PathBuf,
}

impl Registry {
    /// Starts one on a free port of 127.0.0.1, empty.
    pub fn start(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = dir.join("registry.yml");
        let storage = dir.join("registry");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {storage:?}}}\n  delete: {{enabled: true}}\nhttp:\n  addr: {address}\n"
            ),
        )?;
        let certs = dir.join("certs.d");
        for host in HOSTS {
            let of = certs.join(host);
            std::fs::create_dir_all(&of)?;
            let hosts = format!(
                "server = \"http://{address}\"\n\n[host.\"http://{address}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
            );
            std::fs::write(of.join("hosts.toml"), hosts)?;
        }
        let mut registry = Self { address, process: None, dir: dir.to_owned(), certs };
        registry.start_again()?;
        Ok(registry)
    }

    /// Starts it where it was, with what it had, after it was killed.
    pub fn start_again(&mut self) -> Result<()> {
        let config = self.dir.join("registry.yml");
        let mut process = Program::new("docker-registry", ["serve".as_ref(), config.as_os_str()])
            .background(&self.dir.join("registry.log"))
            .context("docker-registry is Debian's package of that name: make deps")?;
        process.until(TIMEOUT, || TcpStream::connect(self.address).is_ok())?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it without a word.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), Background::kill)
    }

    /// The directory of `HOST/hosts.toml` files that leads here.
    pub fn certs(&self) -> &Path {
        &self.certs
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes images pullable under their names.
    pub fn publish(&self, images: &[Published]) -> Result<()> {
        for image in images {
            self.push(&image.repository, &image.tags, &image.image)
                .with_context(|| format!("cannot push {}", image.repository))?;
        }
        Ok(())
    }

    fn push(&self, repository: &str, tags: &[&str], image: &Image) -> Result<()> {
        image.blobs.iter().try_for_each(|blob| self.push_blob(repository, blob))?;
        for name in tags.iter().copied().chain(std::iter::once(image.manifest.digest.as_str())) {
            let path = format!("/v2/{repository}/manifests/{name}");
            let answer = self.request("PUT", &path, image.manifest.media_type, &image.manifest.bytes)?;
            ensure!(answer.status == 201, "{path}: {answer:?}");
        }
        Ok(())
    }

    fn push_blob(&self, repository: &str, blob: &Blob) -> Result<()> {
        let there = self.request("HEAD", &format!("/v2/{repository}/blobs/{}", blob.digest), "", &[])?;
        if there.status == 200 {
            return Ok(());
        }
        let start = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "", &[])?;
        ensure!(start.status == 202, "cannot start an upload: {start:?}");
        let location = start.location.context("an upload without a Location")?;
        let path = location.trim_start_matches(&format!("http://{}", self.address));
        let path = format!("{path}{}digest={}", if path.contains('?') { '&' } else { '?' }, blob.digest);
        let done = self.request("PUT", &path, "application/octet-stream", &blob.bytes)?;
        ensure!(done.status == 201, "{path}: {done:?}");
        Ok(())
    }

    /// One request on a connection of its own: HTTP enough for one known server on loopback.
    fn request(&self, method: &str, path: &str, media: &str, body: &[u8]) -> Result<Answer> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        )?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Answer::parse(&String::from_utf8_lossy(&answer))
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<()> {
        // docker-registry ends by the signal: nothing of it is worth an orderly end.
        self.kill()
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    location: Option<String>,
    #[expect(dead_code, reason = "printed when the status is not what it should be")]
    text: String,
}

impl Answer {
    fn parse(answer: &str) -> Result<Self> {
        let Some((head, text)) = answer.split_once("\r\n\r\n") else { bail!("no HTTP answer: {answer:?}") };
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status line")?;
        let location = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("location"))
            .map(|(_, value)| value.to_owned());
        Ok(Self { status, location, text: text.to_owned() })
    }
}
