//! Both ends of attested TLS.
