//! The closed form of XML that a RIM has, as a tree, and its canonical form.
//!
//! quick-xml splits the text into tags; what is not in the form is refused here: no DTD, no entities or character
//! references, no CDATA, no processing instructions, no `xml:` attributes, no carriage returns, names of ASCII letters, digits,
//! `_`, `-` and `.`. Within that, canonical XML 1.1 without comments (W3C, xml-c14n11; the same bytes as 1.0, since the two differ
//! in `xml:` attributes only): namespace declarations where they change something, sorted; then attributes, sorted by
//! namespace and name; every element with an end tag. The same tree is signed and read, so that nothing can be read
//! that was not signed.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use std::collections::BTreeMap;

/// Longer than any RIM, in bytes.
pub(crate) const MAX_XML: usize = 1024 * 1024;
const MAX_DEPTH: usize = 16;
const MAX_NODES: usize = 20_000;
const MAX_ATTRIBUTES: usize = 64;

/// An element, with its names resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    /// As it is written, with its prefix.
    name: String,
    /// Namespace; empty for none.
    namespace: String,
    attributes: Vec<Attribute>,
    /// Declarations that stand on it: prefix (empty for the default) and namespace.
    declared: BTreeMap<String, String>,
    children: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Element(Element),
    Text(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Attribute {
    name: String,
    namespace: String,
    value: String,
}

/// Namespaces in scope, by prefix.
type Scope = BTreeMap<String, String>;

impl Element {
    /// Reads a whole document.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_XML {
            return Err(format!("expected at most {MAX_XML} bytes, found {}", text.len()));
        }
        if let Some(at) = text.find('\r') {
            return Err(format!("offset {at}: a carriage return, which this form has not"));
        }
        Builder { reader: Reader::from_str(text), open: Vec::new(), nodes: 0, root: None }.run()
    }

    /// Whether it has this namespace and name.
    pub(crate) fn is(&self, namespace: &str, local: &str) -> bool {
        self.namespace == namespace && local_name(&self.name) == local
    }

    /// Its elements.
    pub(crate) fn elements(&self) -> impl Iterator<Item = &Element> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// Its one element of this namespace and name.
    pub(crate) fn only(&self, namespace: &str, local: &str) -> Result<&Element, String> {
        let mut found = self.elements().filter(|e| e.is(namespace, local));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (first, _) => {
                let count = if first.is_some() { "more" } else { "none" };
                Err(format!("expected one `{local}` in `{}`, found {count}", self.name))
            }
        }
    }

    /// The value of an attribute; the namespace is empty for one without a prefix.
    pub(crate) fn attribute(&self, namespace: &str, local: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|a| a.namespace == namespace && local_name(&a.name) == local);
        found.map(|a| a.value.as_str())
    }

    /// Its text, if it has nothing else.
    pub(crate) fn text(&self) -> Option<String> {
        self.children
            .iter()
            .map(|node| match node {
                Node::Text(text) => Some(text.as_str()),
                Node::Element(_) => None,
            })
            .collect()
    }

    /// Canonical form of the document that this is the root of, without its one child `without`.
    pub(crate) fn canonical_without(&self, without: &Element) -> String {
        let mut out = String::new();
        self.write(&mut out, &Scope::new(), &Scope::new(), Some(without));
        out
    }

    /// Canonical form of `path`'s last element as the top of a document of its own, in the scope of the others.
    pub(crate) fn canonical_inner(path: &[&Element]) -> String {
        let mut out = String::new();
        let Some((last, above)) = path.split_last() else { return out };
        let scope = above.iter().fold(Scope::new(), |mut scope, element| {
            scope.extend(element.declared.clone());
            scope
        });
        last.write(&mut out, &Scope::new(), &scope, None);
        out
    }

    /// `rendered`: what ancestors in the output declared; `inherited`: what is in scope without standing there.
    fn write(&self, out: &mut String, rendered: &Scope, inherited: &Scope, without: Option<&Element>) {
        let mut scope = inherited.clone();
        scope.extend(self.declared.clone());
        let mut now = rendered.clone();
        *out += "<";
        *out += &self.name;
        for (prefix, namespace) in &scope {
            if rendered.get(prefix) == Some(namespace) {
                continue;
            }
            now.insert(prefix.clone(), namespace.clone());
            *out += if prefix.is_empty() { " xmlns" } else { " xmlns:" };
            *out += prefix;
            write_value(out, namespace);
        }
        let mut attributes: Vec<&Attribute> = self.attributes.iter().collect();
        attributes.sort_by_key(|a| (a.namespace.as_str(), local_name(&a.name)));
        for attribute in attributes {
            *out += " ";
            *out += &attribute.name;
            write_value(out, &attribute.value);
        }
        *out += ">";
        for node in &self.children {
            match node {
                Node::Text(text) => write_text(out, text),
                Node::Element(child) if without.is_some_and(|w| std::ptr::eq(w, child)) => {}
                Node::Element(child) => child.write(out, &now, &Scope::new(), without),
            }
        }
        *out += "</";
        *out += &self.name;
        *out += ">";
    }
}

/// Control characters other than line ends and references are not in the form, so that nothing else needs escaping.
fn write_value(out: &mut String, value: &str) {
    *out += "=\"";
    *out += &value.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    *out += "\"";
}

fn write_text(out: &mut String, text: &str) {
    *out += &text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
}

fn local_name(name: &str) -> &str {
    name.split_once(':').map_or(name, |(_, local)| local)
}

struct Builder<'a> {
    reader: Reader<&'a [u8]>,
    open: Vec<Element>,
    nodes: usize,
    root: Option<Element>,
}

impl Builder<'_> {
    fn run(mut self) -> Result<Element, String> {
        let mut first = true;
        loop {
            let at = self.reader.buffer_position();
            let event = self.reader.read_event().map_err(|e| format!("offset {at}: {e}"))?;
            let step = match event {
                Event::Start(tag) => self.start(&tag),
                Event::Empty(tag) => self.start(&tag).and_then(|()| self.end()),
                Event::End(_) => self.end(),
                Event::Text(text) => self.text(&text),
                Event::Decl(declaration) if first => declared_utf8(&declaration),
                Event::Comment(_) => Err("a comment, which this form has not".into()),
                Event::Eof => break,
                _ => Err("a reference, CDATA, DTD or instruction, which this form has not".into()),
            };
            step.map_err(|why: String| format!("offset {at}: {why}"))?;
            self.nodes += 1;
            first = false;
            if self.nodes > MAX_NODES {
                return Err(format!("expected at most {MAX_NODES} nodes, found more"));
            }
        }
        match self.root {
            Some(root) if self.open.is_empty() => Ok(root),
            _ => Err("expected a whole document, found its end too early".into()),
        }
    }

    fn start(&mut self, tag: &BytesStart<'_>) -> Result<(), String> {
        if self.root.is_some() {
            return Err("a second element at the top".into());
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("deeper than {MAX_DEPTH} elements"));
        }
        let element = read_tag(tag)?;
        let lookup = |prefix: &str| {
            let own = element.declared.get(prefix);
            own.or_else(|| self.open.iter().rev().find_map(|e| e.declared.get(prefix))).cloned()
        };
        let resolved = resolve(element.clone(), lookup)?;
        self.open.push(resolved);
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let element = self.open.pop().ok_or("an end tag without its start")?;
        match self.open.last_mut() {
            Some(parent) => parent.children.push(Node::Element(element)),
            None => self.root = Some(element),
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), String> {
        if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') || text.contains("]]>") {
            return Err("text with control characters or `]]>`".into());
        }
        match self.open.last_mut() {
            Some(parent) => parent.children.push(Node::Text(text.to_owned())),
            None if text.trim().is_empty() => {}
            None => return Err("text outside the document".into()),
        }
        Ok(())
    }
}

fn declared_utf8(declaration: &quick_xml::events::BytesDecl<'_>) -> Result<(), String> {
    let text: &str = declaration;
    let plain = text.to_ascii_lowercase();
    if plain.contains("encoding") && !plain.contains("utf-8") {
        return Err("an encoding other than UTF-8".into());
    }
    Ok(())
}

/// Name, attributes and declarations, not resolved yet.
fn read_tag(tag: &BytesStart<'_>) -> Result<Element, String> {
    let name = plain_name(tag.name().0)?;
    let (mut attributes, mut declared) = (Vec::new(), BTreeMap::new());
    for found in tag.attributes() {
        let found = found.map_err(|e| e.to_string())?;
        let (key, value) = (plain_name(found.key.0)?, plain_value(&found.value)?);
        if attributes.len() + declared.len() >= MAX_ATTRIBUTES {
            return Err(format!("more than {MAX_ATTRIBUTES} attributes in `{name}`"));
        }
        if key == "xmlns" || key.starts_with("xmlns:") {
            if value.is_empty() {
                return Err(format!("`{key}` without a namespace"));
            }
            let prefix = key.strip_prefix("xmlns").unwrap_or_default().trim_start_matches(':');
            declared.insert(prefix.to_owned(), value);
        } else {
            attributes.push(Attribute { name: key, namespace: String::new(), value });
        }
    }
    Ok(Element { name, namespace: String::new(), attributes, declared, children: Vec::new() })
}

fn resolve(mut element: Element, lookup: impl Fn(&str) -> Option<String>) -> Result<Element, String> {
    let namespace_of = |name: &str, default: bool| match name.split_once(':') {
        Some((prefix, _)) => lookup(prefix).ok_or_else(|| format!("`{name}` has an undeclared prefix")),
        None if default => Ok(lookup("").unwrap_or_default()),
        None => Ok(String::new()),
    };
    element.namespace = namespace_of(&element.name, true)?;
    for attribute in &mut element.attributes {
        attribute.namespace = namespace_of(&attribute.name, false)?;
    }
    let mut names: Vec<_> = element.attributes.iter().map(|a| (&a.namespace, local_name(&a.name))).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(format!("an attribute of `{}` stands twice", element.name));
    }
    Ok(element)
}

/// A name with at most one prefix; `xml` and `xmlns` as prefixes of elements and attributes have a meaning of their own.
fn plain_name(name: &str) -> Result<String, String> {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
    };
    let mut parts = name.split(':');
    let plain = match (parts.next(), parts.next(), parts.next()) {
        (Some(local), None, _) => part(local),
        (Some(prefix), Some(local), None) => part(prefix) && part(local) && prefix != "xml",
        _ => false,
    };
    let found: String = name.chars().take(40).collect();
    if plain { Ok(name.to_owned()) } else { Err(format!("the name `{}`", found.escape_default())) }
}

fn plain_value(value: &str) -> Result<String, String> {
    if value.chars().any(|c| c.is_control() || c == '&' || c == '<') {
        return Err("an attribute with control characters or references".into());
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        let root = Element::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        Element::canonical_inner(&[&root])
    }

    /// Expected forms as libxml2 2.14 writes them (through lxml 6.1, canonical XML 1.0).
    #[test]
    fn canonical_form_sorts_and_closes() {
        let cases = [
            ("<?xml version=\"1.0\"?>\n<a  c='1'   b=\"2\"/>\n", "<a b=\"2\" c=\"1\"></a>"),
            (
                "<a xmlns:z=\"urn:z\" xmlns=\"urn:u\" z:q=\"1\" b=\"2\"/>",
                "<a xmlns=\"urn:u\" xmlns:z=\"urn:z\" b=\"2\" z:q=\"1\"></a>",
            ),
            (
                "<a xmlns:x=\"urn:2\" xmlns:y=\"urn:1\" x:k=\"1\" y:k=\"2\"/>",
                "<a xmlns:x=\"urn:2\" xmlns:y=\"urn:1\" y:k=\"2\" x:k=\"1\"></a>",
            ),
            ("<a xmlns=\"urn:u\"><b xmlns=\"urn:u\">x > y</b></a>", "<a xmlns=\"urn:u\"><b>x &gt; y</b></a>"),
            (
                "<a xmlns=\"urn:u\"><b xmlns=\"urn:v\"><c/></b><d/></a>",
                "<a xmlns=\"urn:u\"><b xmlns=\"urn:v\"><c></c></b><d></d></a>",
            ),
            ("<a k='say \"hi\"'/>", "<a k=\"say &quot;hi&quot;\"></a>"),
        ];
        for (text, expected) in cases {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn an_inner_element_brings_the_scope_that_it_stands_in() {
        let root = Element::parse(
            "<a xmlns=\"urn:u\" xmlns:n=\"urn:v\"><n:b xmlns:d=\"urn:w\"><d:c k=\"1\"/></n:b></a>",
        )
        .unwrap();
        let b = root.only("urn:v", "b").unwrap();
        let c = b.only("urn:w", "c").unwrap();
        let expected = "<d:c xmlns=\"urn:u\" xmlns:d=\"urn:w\" xmlns:n=\"urn:v\" k=\"1\"></d:c>";
        assert_eq!(Element::canonical_inner(&[&root, b, c]), expected);
    }

    #[test]
    fn what_is_not_in_the_form_is_refused() {
        let deep = "<a>".repeat(MAX_DEPTH + 1);
        let cases = [
            ("<!DOCTYPE a [<!ENTITY e \"x\">]><a>&e;</a>", "DTD"),
            ("<a>&amp;</a>", "reference"),
            ("<a k=\"&#65;\"/>", "references"),
            ("<a><![CDATA[x]]></a>", "CDATA"),
            ("<a><?p x?></a>", "instruction"),
            ("<a><!-- x --></a>", "comment"),
            ("<a xml:id=\"1\"/>", "the name `xml:id`"),
            ("<a b:c=\"1\"/>", "undeclared prefix"),
            ("<a k=\"1\" k=\"2\"/>", "offset 0"),
            ("<a xmlns:x=\"urn:u\" xmlns:y=\"urn:u\" x:k=\"1\" y:k=\"2\"/>", "stands twice"),
            ("<a></b>", "offset 3"),
            ("<a/><b/>", "second element"),
            ("<a/>x", "outside"),
            ("<a", "offset 0"),
            ("<a>\r\n</a>", "carriage return"),
            (&deep, "deeper than 16"),
        ];
        for (text, words) in cases {
            let error = Element::parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
