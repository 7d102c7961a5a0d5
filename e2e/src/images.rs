//! Builds the test images, under critest's names, from programs of this machine: BusyBox and nginx (Debian's, with their libraries)
//! and one set-user-id program.

use std::path::Path;

use anyhow::{Context, Result};
use testimage::{ARCHITECTURE, Config, Image, Layer, Node, Tree};

use crate::process::Program;
use crate::tools::Tools;

/// An image with its names.
#[derive(Debug)]
pub struct Published {
    /// The repository, without the registry: all registries of the tests are the same one.
    pub repository: String,
    /// Its tags.
    pub tags: Vec<&'static str>,
    /// Its contents.
    pub image: Image,
}

/// critest's default image: BusyBox.
pub const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
/// The pause image, for other runtimes.
pub const PAUSE: &str = "registry.k8s.io/pause:3.9";
/// critest's web server: nginx on port 80.
pub const NGINX: &str = "registry.k8s.io/e2e-test-images/nginx:1.14-2";
/// critest's second web server, BusyBox's here, which answers on IPv6 too.
pub const HTTPD: &str = "registry.k8s.io/e2e-test-images/httpd:2.4.39-4";
/// Its user is 1000, a member of group 50000 in the image's group file.
pub const PREDEFINED_GROUP: &str = "registry.k8s.io/k8s-staging-cri-tools/test-image-predefined-group:latest";
/// Its set-user-id program prints its user id.
pub const NO_NEW_PRIVS: &str = "registry.k8s.io/e2e-test-images/nonewprivs:1.3";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
";
const GROUP: &str = "root:x:0:
daemon:x:1:
bin:x:2:
www-data:x:33:
users:x:100:
nobody:x:65534:
";
/// Debian's BusyBox is built without these two. pgrep prints the processes of a name, and ipcs the shared memory.
const PGREP: &str = "#!/bin/sh\nexec pidof \"$1\"\n";
const IPCS: &str = "#!/bin/sh\nexec cat /proc/sysvipc/shm\n";

/// A Linux shell, for FreeBSD's Linux ABI.
pub fn linux_shell(tools: &Tools) -> Result<Published> {
    let config = Config { cmd: vec!["sh"], ..Config::default() };
    let image = Image::new(&[busybox_tree(tools)?.layer()?], &config);
    Ok(Published { repository: "e2e-test-images/linux-busybox".into(), tags: vec!["1"], image })
}

/// Kubernetes' own program for tests (`/agnhost`), with a shell beside it.
pub fn agnhost(tools: &Tools, program: &Path) -> Result<Published> {
    let agnhost = Tree::default().program("agnhost", &std::fs::read(program)?).layer()?;
    let config = Config { entrypoint: vec!["/agnhost"], ..Config::default() };
    let image = Image::new(&[busybox_tree(tools)?.layer()?, agnhost], &config);
    Ok(Published { repository: "e2e-test-images/agnhost".into(), tags: vec!["2.99"], image })
}

/// Every image that critest and the crictl scenario use.
pub fn all(tools: &Tools) -> Result<Vec<Published>> {
    let busybox = busybox_tree(tools)?;
    let base = busybox.layer()?;
    let shell = Config { cmd: vec!["sh"], ..Config::default() };
    let nginx = nginx_tree(tools)?.layer()?;
    let e2e = |name: &str| format!("e2e-test-images/{name}");
    let staging = |name: &str| format!("k8s-staging-cri-tools/{name}");
    let mut images = vec![
        Published {
            repository: e2e("busybox"),
            tags: vec!["1.29-2"],
            image: Image::new(std::slice::from_ref(&base), &shell),
        },
        Published { repository: e2e("nginx"), tags: vec!["1.14-2"], image: web_server(&base, &nginx, 80)? },
        Published {
            repository: staging(&format!("hostnet-nginx-{ARCHITECTURE}")),
            tags: vec!["latest"],
            image: web_server(&base, &nginx, 12003)?,
        },
        Published { repository: e2e("httpd"), tags: vec!["2.4.39-4"], image: httpd(&base)? },
        Published { repository: e2e("nonewprivs"), tags: vec!["1.3"], image: no_new_privs(tools)? },
        Published { repository: "pause".into(), tags: vec!["3.9"], image: pause(&base)? },
        Published { repository: staging("test-image-digest"), tags: vec!["latest"], image: by_digest()? },
    ];
    for (name, tags) in [
        ("test-image-1", vec!["latest"]),
        ("test-image-2", vec!["latest"]),
        ("test-image-3", vec!["latest"]),
        ("test-image-latest", vec!["latest"]),
        ("test-image-tags", vec!["1", "2", "3"]),
    ] {
        images.push(Published { repository: staging(name), tags, image: marked(&base, name)? });
    }
    for tag in ["test", "all"] {
        images.push(Published { repository: staging("test-image-tag"), tags: vec![tag], image: marked(&base, tag)? });
    }
    for (name, user) in [
        ("test-image-user-uid", "1002"),
        ("test-image-user-username", "www-data"),
        ("test-image-user-uid-group", "1003:1004"),
        ("test-image-user-username-group", "www-data:1004"),
    ] {
        let image = Image::new(std::slice::from_ref(&base), &Config { user, ..shell.clone() });
        images.push(Published { repository: staging(name), tags: vec!["latest"], image });
    }
    let groups = predefined_group(&base)?;
    images.push(Published { repository: staging("test-image-predefined-group"), tags: vec!["latest"], image: groups });
    Ok(images)
}

/// The image that critest pulls by a digest in its source. The upstream image cannot be reproduced, so critest is built with the
/// digest of this one, which does not depend on the machine.
pub fn by_digest() -> Result<Image> {
    Ok(Image::new(&[Tree::default().file("test-image-digest", "").layer()?], &Config::default()))
}

/// Debian's BusyBox, not its busybox-static, whose shell runs applets without opening their files: masking /bin/ls would have no
/// effect.
fn busybox_tree(tools: &Tools) -> Result<Tree> {
    let program = tools.package("busybox")?.join("bin/busybox");
    let applets = Program::new(&program, ["--list"]).run()?;
    let mut tree = with_libraries(Tree::default(), "bin/busybox", &program)?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        tree = tree.with(&format!("bin/{applet}"), Node::HardLink("bin/busybox".into()));
    }
    Ok(tree
        .program("bin/pgrep", PGREP.as_bytes())
        .program("bin/ipcs", IPCS.as_bytes())
        .program("bin/shm", &std::fs::read(tools.shared_memory_program()?)?)
        .file("etc/passwd", PASSWD)
        .file("etc/group", GROUP)
        .directory("tmp", 0o1777)
        .directory("root", 0o700)
        .directory("home", 0o755)
        .directory("var/www", 0o755))
}

fn marked(base: &Layer, name: &str) -> Result<Image> {
    let marker = Tree::default().file(name, "").layer()?;
    Ok(Image::new(&[base.clone(), marker], &Config { cmd: vec!["sh"], ..Config::default() }))
}

fn predefined_group(base: &Layer) -> Result<Image> {
    let users = Tree::default()
        .file("etc/passwd", &format!("{PASSWD}default-user:x:1000:1000::/home/default-user:/bin/sh\n"))
        .file("etc/group", &format!("{GROUP}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"))
        .layer()?;
    Ok(Image::new(&[base.clone(), users], &Config { user: "1000", cmd: vec!["sh"], ..Config::default() }))
}

/// A web server that logs `httpd`, as critest expects of Apache.
fn httpd(base: &Layer) -> Result<Image> {
    let start = "#!/bin/sh\necho httpd is on port 80\nexec httpd -f -v -p 80 -h /var/www\n";
    let site = Tree::default()
        .file("var/www/index.html", "It works!\n")
        .program("bin/start-httpd", start.as_bytes())
        .layer()?;
    Ok(Image::new(&[base.clone(), site], &Config { cmd: vec!["start-httpd"], ..Config::default() }))
}

/// Replaces the pause image: critest pulls it from two registries, and other runtimes run it.
fn pause(base: &Layer) -> Result<Image> {
    let pause = Tree::default().program("pause", b"#!/bin/sh\nexec tail -f /dev/null\n").layer()?;
    Ok(Image::new(&[base.clone(), pause], &Config { entrypoint: vec!["/pause"], ..Config::default() }))
}

fn no_new_privs(tools: &Tools) -> Result<Image> {
    let program = std::fs::read(tools.set_user_id_program()?)?;
    let tree = Tree::default().with("nnp", Node::File(0o4755, program.into()));
    Ok(Image::new(&[tree.layer()?], &Config { entrypoint: vec!["/nnp"], ..Config::default() }))
}

fn web_server(base: &Layer, nginx: &Layer, port: u16) -> Result<Image> {
    let configuration = format!(
        "user www-data www-data;\nworker_processes 1;\npid /var/run/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n  access_log off;\n  \
         server {{\n    listen {port};\n    root /usr/share/nginx/html;\n  }}\n}}\n"
    );
    let site = Tree::default()
        .file("etc/nginx/nginx.conf", &configuration)
        .file("usr/share/nginx/html/index.html", "<h1>Welcome to nginx!</h1>\n")
        .layer()?;
    let config = Config { cmd: vec!["nginx", "-g", "daemon off;"], ..Config::default() };
    Ok(Image::new(&[base.clone(), nginx.clone(), site], &config))
}

/// nginx from its package.
fn nginx_tree(tools: &Tools) -> Result<Tree> {
    let tree =
        Tree::default().directory("var/run", 0o755).directory("var/log/nginx", 0o755).directory("var/lib/nginx", 0o755);
    with_libraries(tree, "usr/sbin/nginx", &tools.package("nginx")?.join("usr/sbin/nginx"))
}

/// Adds a program of this machine with its libraries.
fn with_libraries(tree: Tree, path: &str, program: &Path) -> Result<Tree> {
    let mut tree = tree.program(path, &std::fs::read(program)?);
    let loaded = Program::new("ldd", [program]).run()?;
    for library in loaded.split_whitespace().filter(|word| word.starts_with('/')) {
        let contents = std::fs::read(library).with_context(|| format!("cannot read {library}"))?;
        tree = tree.program(library.trim_start_matches('/'), &contents);
    }
    Ok(tree)
}
