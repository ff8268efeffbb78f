//! The docs hold together: every relative link leads somewhere, every page is listed, every crate is explained.

use super::Violation;
use super::manifest::Manifest;
use super::tree::{Tree, line_where};

const SUMMARY: &str = "docs/SUMMARY.md";
const ARCHITECTURE: &str = "docs/architecture.md";

/// Broken links, unlisted pages, unexplained crates.
pub fn check(tree: &Tree, manifests: &[Manifest]) -> Vec<Violation> {
    let mut out = Vec::new();
    let summary = tree.text(SUMMARY).unwrap_or_default();
    let listed: Vec<_> = links(summary).into_iter().map(|link| resolve(SUMMARY, &link.target)).collect();
    for (path, text) in tree.texts().filter(|(p, _)| is_page(p)) {
        out.extend(links(text).into_iter().filter_map(|link| broken(tree, path, &link)));
        if path != SUMMARY && path.starts_with("docs/") && !listed.iter().any(|l| l == path) {
            let what = "no reader finds this page".to_string();
            out.push(Violation::new(path, 1, what, &format!("a link to it in {SUMMARY}"), "list it there"));
        }
    }
    let architecture = tree.text(ARCHITECTURE).unwrap_or_default();
    for manifest in manifests {
        let place = format!("{}/{}", manifest.room, manifest.folder);
        if !mentions(architecture, &place) {
            let what = format!("crate `{place}` is not mentioned");
            let fix = "say in a line what it is for";
            out.push(Violation::new(ARCHITECTURE, 1, what, "every crate on the architecture page", fix));
        }
    }
    out
}

fn is_page(path: &str) -> bool {
    path == "README.md" || (path.starts_with("docs/") && path.ends_with(".md"))
}

/// `place` as a word of its own: `guest/init` does not count in `guest/initrd`.
fn mentions(text: &str, place: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-' || c == '_');
    text.match_indices(place).any(|(at, _)| ends(&text[at + place.len()..]))
}

/// A link of a page.
struct Link {
    target: String,
    line: usize,
}

/// `[text](target)`, `![text](target)`, `[name]: target`, `src="target"` and `href="target"` outside code.
fn links(text: &str) -> Vec<Link> {
    let (mut out, mut fence) = (Vec::new(), false);
    for (i, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") || line.trim_start().starts_with("~~~") {
            fence = !fence;
        }
        if fence {
            continue;
        }
        // Every second piece between backquotes is code.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for (open, close) in [("](", ')'), ("src=\"", '"'), ("href=\"", '"')] {
            for (at, _) in prose.match_indices(open) {
                let rest = &prose[at + open.len()..];
                if let Some((target, _)) = rest.split_once(close) {
                    out.push(Link { target: clean(target), line: i + 1 });
                }
            }
        }
        if let Some((_, target)) = line.strip_prefix('[').and_then(|l| l.split_once("]: ")) {
            out.push(Link { target: clean(target), line: i + 1 });
        }
    }
    out
}

/// The target without a title and angle brackets.
fn clean(target: &str) -> String {
    let target = target.trim();
    let inside = target.strip_prefix('<').and_then(|t| t.split_once('>')).map(|(t, _)| t);
    inside.unwrap_or_else(|| target.split_whitespace().next().unwrap_or_default()).to_string()
}

/// Path below the root of a relative target seen from `page`, without its anchor.
fn resolve(page: &str, target: &str) -> String {
    let path = target.split(['#', '?']).next().unwrap_or_default();
    if path.is_empty() {
        return page.to_string();
    }
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            // Above the root nothing is ours; the name that stays can't be in the tree.
            ".." if parts.last().is_none_or(|p| *p == "..") => parts.push(".."),
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

fn broken(tree: &Tree, page: &str, link: &Link) -> Option<Violation> {
    let target = link.target.as_str();
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let path = resolve(page, target);
    let fix = "mend the link, or write what it promises";
    if !tree.has(&path) {
        let what = format!("link to `{target}`, but there is no {path}");
        return Some(Violation::new(page, link.line, what, "links that lead somewhere", fix));
    }
    let anchor = target.split_once('#').map(|(_, a)| a).filter(|_| path.ends_with(".md"))?;
    let text = tree.text(&path)?;
    let found = line_where(text, |line| line.starts_with('#') && slug(line) == anchor);
    (slug(text.lines().nth(found - 1)?) != anchor).then(|| {
        let what = format!("link to `{target}`, but {path} has no such heading");
        Violation::new(page, link.line, what, "links that lead somewhere", fix)
    })
}

/// The anchor that mdBook and hosting sites make of a heading.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::manifest::read_all;
    use super::*;

    fn check_files(files: &[(&str, &str)]) -> Vec<String> {
        let tree = Tree::of(files);
        let found = check(&tree, &read_all(&tree));
        found.into_iter().map(|v| format!("{}:{}: {}", v.path, v.line, v.what)).collect()
    }

    #[test]
    fn links_that_lead_somewhere_are_accepted() {
        let page = "# A b, `c`\n[x](../README.md) ![y](img/a.svg \"t\") [z](#a-b-c) [w](https://x.example/y)\n\
                    [r]: img/a.svg\n`[not](a-link)`\n```\n[not](a-link)\n```\n<img src=\"img/a.svg\">\n";
        let files = [
            ("README.md", "[docs](docs/a.md#a-b-c) [room](guest) [licence](./LICENSE)\n"),
            ("docs/SUMMARY.md", "- [A](a.md)\n"),
            ("docs/a.md", page),
            ("docs/img/a.svg", "<svg/>\n"),
            ("guest/x", ""),
            ("LICENSE", ""),
        ];
        assert_eq!(check_files(&files), [""; 0]);
    }

    #[test]
    fn broken_links_are_refused_with_their_lines() {
        let page =
            "# A\n[x](gone.md)\n[y](../../outside.md) [z](#nowhere)\n[r]: gone.svg\n<a href=\"gone.html\">\n";
        let found = check_files(&[("docs/SUMMARY.md", "- [A](a.md)\n"), ("docs/a.md", page)]);
        let lines: Vec<_> = found.iter().map(|v| v.split(':').nth(1).unwrap()).collect();
        assert_eq!(lines, ["2", "3", "3", "4", "5"], "{found:#?}");
    }

    #[test]
    fn a_page_that_is_not_listed_is_refused() {
        let found = check_files(&[("docs/SUMMARY.md", "# Summary\n"), ("docs/how-to/a.md", "# A\n")]);
        assert_eq!(found, ["docs/how-to/a.md:1: no reader finds this page"]);
    }

    #[test]
    fn a_crate_is_mentioned_by_its_own_name_only() {
        let summary = ("docs/SUMMARY.md", "[a](architecture.md)\n");
        let own = ("guest/init/Cargo.toml", "[package]\nname = \"init\"\n");
        let good = ("docs/architecture.md", "the crate `guest/init` and `guest/initrd`\n");
        assert_eq!(check_files(&[summary, own, good]), [""; 0]);
        let bad = ("docs/architecture.md", "the crate `guest/initrd`\n");
        assert_eq!(
            check_files(&[summary, own, bad]),
            ["docs/architecture.md:1: crate `guest/init` is not mentioned"]
        );
    }
}
