//! The fake backend passes the suite that the real ones pass.

use std::sync::Arc;

use runtime::Runtime;
use runtime::conformance::{Programs, Subject, run};
use runtime::fake::{Fake, Kernel};

#[test]
fn the_fake_conforms() {
    let scratch = tempfile::tempdir().unwrap();
    let kernel = Kernel::default();
    let (root, shared) = (scratch.path().to_owned(), kernel.clone());
    run(&Subject {
        open: Box::new(move || Arc::new(Fake { kernel: kernel.clone(), spares: true }) as Arc<dyn Runtime>),
        rootfs: Box::new(move || root.clone()),
        scratch: scratch.path().to_owned(),
        programs: Programs::of_the_fake(),
        lose: Box::new(move |pod| shared.lose(pod)),
        damage: Box::new(|_| ()),
    });
}
