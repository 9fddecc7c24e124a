//! Names as text: which service a client may mean by one.

/// The longest name in presentation format, without the dot at its end (RFC 1035, section 2.3.4).
const LONGEST: usize = 253;
/// The longest part of a name.
const LONGEST_LABEL: usize = 63;

/// The name in lower case and without the dot at its end; nothing when no service can have it.
pub(super) fn normal(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    (name.len() <= LONGEST && name.split('.').all(label)).then(|| name.to_ascii_lowercase())
}

/// The name without its first part.
pub(super) fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, parent)| parent)
}

/// All names above this one, the nearest first.
pub(super) fn parents(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(parent(name), |name| parent(name))
}

/// The names that a client in `namespace` may mean by `name`, the most literal first: the name itself; without a search domain that its
/// resolver has put behind; and what the short forms `service`, `service.namespace` and `service.namespace.svc` stand for.
pub(super) fn meant(name: &str, namespace: &str, domain: &str) -> Vec<String> {
    let mut meant = vec![name.to_owned()];
    let search = [format!(".{namespace}.svc.{domain}"), format!(".svc.{domain}"), format!(".{domain}")];
    meant.extend(search.iter().filter_map(|search| name.strip_suffix(search.as_str())).map(str::to_owned));
    let whole: Vec<String> = meant.iter().filter_map(|name| expand(name, namespace, domain)).collect();
    for name in whole {
        if !meant.contains(&name) {
            meant.push(name);
        }
    }
    meant
}

fn expand(name: &str, namespace: &str, domain: &str) -> Option<String> {
    let mut labels = name.split('.');
    match (labels.next(), labels.next(), labels.next(), labels.next()) {
        (Some(_), None, _, _) => Some(format!("{name}.{namespace}.svc.{domain}")),
        (Some(_), Some(_), None, _) => Some(format!("{name}.svc.{domain}")),
        (Some(_), Some(_), Some("svc"), None) => Some(format!("{name}.{domain}")),
        _ => None,
    }
}
