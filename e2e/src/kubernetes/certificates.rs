//! A certificate authority for the run and the certificates of its programs, made by openssl(1).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use crate::process::Program;

/// The extensions of the two kinds of certificates.
const CONFIG: &str = "[req]\ndistinguished_name = name\n[name]\n\
    [authority]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign,digitalSignature\n\
    [program]\nbasicConstraints = CA:FALSE\nextendedKeyUsage = serverAuth,clientAuth\nsubjectAltName = ADDRESSES\n";

/// A directory of keys and certificates.
#[derive(Debug)]
pub(crate) struct Certificates {
    dir: PathBuf,
    address: String,
}

impl Certificates {
    /// Makes the authority, and the key that signs the tokens of service accounts (`accounts`). Programs serve on these addresses,
    /// the API server on the first.
    pub(crate) fn create(dir: &Path, addresses: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let names: Vec<String> = addresses.iter().map(|address| format!("IP:{address}")).collect();
        std::fs::write(dir.join("openssl.cnf"), CONFIG.replace("ADDRESSES", &names.join(",")))?;
        let address = (*addresses.first().context("no address")?).to_owned();
        let certificates = Self { dir: dir.to_owned(), address };
        certificates.request("authority", "/CN=cellblock-e2e", &["-extensions", "authority"])?;
        certificates.program("accounts", "/CN=accounts")?;
        Ok(certificates)
    }

    /// Makes a key and a certificate of this subject.
    pub(crate) fn program(&self, name: &str, subject: &str) -> Result<()> {
        let (authority, key) = (self.certificate("authority"), self.key("authority"));
        self.request(name, subject, &["-extensions", "program", "-CA", &authority, "-CAkey", &key])
    }

    fn request(&self, name: &str, subject: &str, more: &[&str]) -> Result<()> {
        let config = self.path("openssl", "cnf");
        let (key, certificate) = (self.key(name), self.certificate(name));
        let fixed = ["req", "-x509", "-config", &config, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
        let files = ["-nodes", "-days", "2", "-keyout", &key, "-out", &certificate, "-subj", subject];
        Program::new("openssl", [&fixed[..], &files, more].concat())
            .run()
            .with_context(|| format!("no certificate for {name}: openssl is Debian's package of that name: make deps"))
            .map(drop)
    }

    /// The path of a certificate.
    pub(crate) fn certificate(&self, name: &str) -> String {
        self.path(name, "crt")
    }

    /// The path of a private key.
    pub(crate) fn key(&self, name: &str) -> String {
        self.path(name, "key")
    }

    /// Makes a client certificate, and a kubeconfig for the server on this port of the node.
    pub(crate) fn client(&self, name: &str, subject: &str, port: u16) -> Result<String> {
        self.program(name, subject)?;
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "e2e", "cluster": {
                "server": format!("https://{}:{port}", self.address),
                "certificate-authority": self.certificate("authority"),
            }}],
            "users": [{"name": name, "user": {
                "client-certificate": self.certificate(name),
                "client-key": self.key(name),
            }}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": name, "namespace": super::NAMESPACE}}],
            "current-context": "e2e",
        });
        let path = self.path(name, "kubeconfig");
        std::fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
        Ok(path)
    }

    fn path(&self, name: &str, kind: &str) -> String {
        self.dir.join(format!("{name}.{kind}")).to_string_lossy().into_owned()
    }
}
