//! Keeps one pod captured: looks at it every second and whenever its packet filter changes, repairs what is missing, cuts the pod off when that fails.

use std::{os::unix::fs::MetadataExt, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, Notify},
    time::Instant,
};

use crate::{
    Error,
    changes::Changes,
    listeners::Listeners,
    proxies::Handed,
    rules::Whole,
    shared::Shared,
    status::{PodStatus, State},
    verdict::{self, Memory, Observed, Offer, Rules},
};

/// How often a pod is looked at.
pub(crate) const CHECK: Duration = Duration::from_millis(800);
/// How long one look may take; a kernel or a program that hangs must not hide that nothing is verified.
const LIMIT: Duration = Duration::from_secs(15);

/// Looks are at least this far apart, whatever happens.
const APART: Duration = Duration::from_millis(20);
/// How long a look waits for a proxy: what takes longer is noted when it comes, and holds up no repair.
const MOMENT: Duration = Duration::from_millis(300);
/// How often it is tried again to look at the rules, and the pause before: that memory or a lock is short for a moment cuts nobody off.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(30);

/// A pod that is kept captured.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) pod: Handed,
    /// Where the runtime shows the namespace, when that is known.
    pub(crate) path: Option<PathBuf>,
    /// Told when the pod is to be looked at without delay.
    pub(crate) look: Notify,
    /// Held while the pod is looked at, repaired or let go.
    pub(crate) phase: Arc<Mutex<Phase>>,
}

/// What a keeper knows of its pod.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    /// Nothing may be repaired any more: what is missing is missing for a reason.
    pub(crate) let_go: bool,
    /// It is cut off, which the next repair undoes.
    cut: bool,
    memory: Memory,
    /// When the rules were whole.
    whole: Option<Whole>,
}

impl Kept {
    pub(crate) fn new(pod: Handed, path: Option<PathBuf>) -> Self {
        Self { pod, path, look: Notify::new(), phase: Arc::default() }
    }

    /// Whether the runtime still shows the namespace that is held where it showed it first. A path that shows another one belongs to
    /// another pod by now.
    fn there(&self) -> Result<(), &'static str> {
        match self.path.as_ref().map(std::fs::metadata) {
            None => Ok(()),
            Some(Ok(found)) if found.ino() == self.pod.netns.inode() => Ok(()),
            Some(Ok(_)) => Err("its path shows another namespace"),
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Err("its path is gone"),
            // A runtime that removes a namespace leaves an empty file behind for a moment; anything else is no reason to let go.
            Some(Err(_)) => Ok(()),
        }
    }
}

/// Looks after a pod until it is let go or gone.
pub(crate) async fn keep(shared: Arc<Shared>, kept: Arc<Kept>) {
    let uid = &kept.pod.info.uid;
    let changes = Changes::open(&kept.pod.netns);
    loop {
        if let Err(why) = kept.there() {
            tracing::info!(uid, why, "a pod is gone that nobody said goodbye to");
            shared.gone(uid, Some(&kept)).await;
            return;
        }
        let begun = Instant::now();
        match tokio::time::timeout(LIMIT, turn(&shared, &kept, changes.quiet())).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => tracing::error!(uid, "a look at the pod took too long"),
        }
        tokio::select! {
            () = tokio::time::sleep_until(begun + CHECK) => {}
            () = shared.proxies.changed.notified() => {}
            () = changes.next() => {}
            () = kept.look.notified() => {}
        }
        tokio::time::sleep_until(begun + APART).await;
    }
}

/// One look. Returns whether the pod is still to be kept.
async fn turn(shared: &Shared, kept: &Kept, quiet: bool) -> bool {
    let mut phase = kept.phase.lock().await;
    if phase.let_go {
        return false;
    }
    let uid = &kept.pod.info.uid;
    let rules = rules(shared, kept, &mut phase, quiet).await;
    if !matches!(rules, Rules::Cut(_) | Rules::Exposed(_))
        && matches!(shared.proxies.offer(uid), Offer::Refused(_) | Offer::Asked)
    {
        // What it answers is noted there.
        let _noted_or_late = tokio::time::timeout(MOMENT, shared.proxies.remind(kept.pod.clone())).await;
    }
    let listeners = Listeners::look(&kept.pod.netns).map_err(|error| error.to_string());
    let observed = Observed { rules, offer: shared.proxies.offer(uid), listeners };
    let verdict = verdict::decide(observed, &mut phase.memory);
    if verdict.again {
        tracing::warn!(uid, reason = verdict.reason, "the pod is given to the node proxy again");
        metrics::counter!("ambit_capture_repairs_total", "what" => "listeners").increment(1);
        let _gone = shared.proxies.take_back(uid).await;
        let _noted = shared.proxies.add(kept.pod.clone()).await;
    }
    shared.tell(status(kept, &phase, verdict.state, verdict.reason));
    true
}

/// Verifies the rules, repairs them, or cuts the pod off.
async fn rules(shared: &Shared, kept: &Kept, phase: &mut Phase, quiet: bool) -> Rules {
    let info = &kept.pod.info;
    let mut found = shared.rules.verify(&kept.pod.netns, &mut phase.whole, quiet).await;
    for _ in 0..TRIES {
        if found.is_ok() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        found = shared.rules.verify(&kept.pod.netns, &mut phase.whole, false).await;
    }
    let what = match &found {
        Ok(faults) if faults.is_empty() && !phase.cut => return Rules::Whole,
        Ok(faults) => faults.join(", "),
        Err(error) => error.to_string(),
    };
    // Nothing is believed of it until it has been read again.
    phase.whole = None;
    match repair(shared, kept, phase).await {
        Ok(()) => {
            let what = if what.is_empty() { "the way out, which had been cut".to_owned() } else { what };
            tracing::warn!(namespace = %info.namespace, pod = info.name, what, "the capture of a pod has been repaired");
            metrics::counter!("ambit_capture_repairs_total", "what" => "rules").increment(1);
            Rules::Repaired(what)
        }
        Err(error) => {
            let why = format!("{what}; written again: {error}");
            match cut(shared, kept, phase, &why).await {
                Ok(()) => Rules::Cut(why),
                Err(cut) => Rules::Exposed(format!("{why}; cutting it off: {cut}")),
            }
        }
    }
}

/// Sees that the rules of a pod are in force that is just being captured; if they cannot be, it is cut off.
pub(crate) async fn secure(shared: &Shared, kept: &Kept, phase: &mut Phase) -> Result<(), Error> {
    let mut done = repair(shared, kept, phase).await;
    for _ in 0..TRIES {
        if done.is_ok() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        done = repair(shared, kept, phase).await;
    }
    if let Err(error) = &done {
        // That it failed is said of it from then on.
        let _exposed = cut(shared, kept, phase, &error.to_string()).await;
    }
    done
}

/// Cuts a pod off, and remembers it.
async fn cut(shared: &Shared, kept: &Kept, phase: &mut Phase, why: &str) -> Result<(), Error> {
    let info = &kept.pod.info;
    match shared.rules.cut(&kept.pod.netns).await {
        Ok(()) => {
            if !phase.cut {
                tracing::error!(namespace = %info.namespace, pod = info.name, why, "the pod is cut off");
                metrics::counter!("ambit_capture_cut_off_total").increment(1);
            }
            phase.cut = true;
            Ok(())
        }
        Err(cut) => {
            tracing::error!(namespace = %info.namespace, pod = info.name, why, %cut, "the pod may be in clear");
            Err(cut)
        }
    }
}

/// Writes the rules, and believes it only when they are there. Then a pod that was cut off may go on.
async fn repair(shared: &Shared, kept: &Kept, phase: &mut Phase) -> Result<(), Error> {
    shared.rules.ensure(&kept.pod.netns).await?;
    phase.cut = false;
    Ok(())
}

/// The document of a pod.
pub(crate) fn status(kept: &Kept, phase: &Phase, state: State, reason: String) -> PodStatus {
    let info = &kept.pod.info;
    PodStatus {
        uid: info.uid.clone(),
        namespace: info.namespace.to_string(),
        name: info.name.clone(),
        service_account: info.service_account.to_string(),
        netns: kept.pod.netns.inode(),
        state,
        reason,
        repairs: phase.memory.repairs,
    }
}
