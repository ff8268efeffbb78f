//! Folders of decoders that lie or ask for too much, each refused in words.

use super::*;

fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

/// The refusal of a folder in which one file holds other bytes.
fn refused_file(name: &str, bytes: &[u8]) -> String {
    let dir = Decoder::random(1).write();
    std::fs::write(dir.path().join(name), bytes).unwrap();
    Generator::open(dir.path()).err().expect("a folder that must be refused").to_string()
}

#[test]
fn malformed_files_of_a_decoder_are_refused_with_their_line() {
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        says(&refused_file(name, b"{\n\n]"), &[name, "line 3"]);
        let deep = [b"{\"model\":".to_vec(), vec![b'['; 100_000]].concat();
        says(&refused_file(name, &deep), &[name]);
        says(&refused_file(name, b"{\"\xff\xfe\": 1}"), &[name]);
    }
    says(&refused_file("config.json", &vec![b' '; 2 << 20]), &["2097152 bytes", "at most 1048576"]);
}

#[test]
fn tokenizers_that_would_take_much_memory_or_time_are_refused() {
    let token =
        |id: u64, content: &str| json!({"id": id, "special": false, "content": content, "normalized": false});
    let added = |tokens: Vec<serde_json::Value>| refused(|f| f.tokenizer["added_tokens"] = json!(tokens));
    says(
        &added(vec![token(u64::from(u32::MAX), "x")]),
        &["tokenizer.json", "token id 4294967295", "below 4194304"],
    );
    says(&added(vec![token(259, &"x".repeat(1025))]), &["tokenizer.json", "very long"]);
    says(&added(vec![token(259, "")]), &["tokenizer.json", "is empty"]);
    let many = (0..(1 << 14) + 1).map(|i| token(259, &format!("<{i}>"))).collect();
    says(&added(many), &["tokenizer.json", "16385 added tokens", "at most 16384"]);
    // A regular expression of one token each; letters that are expensive for one that folds cases.
    let dear = (0..1 << 14).map(|i| token(259, &format!("{}{i}", "\u{1e9e}".repeat(300)))).collect();
    says(&added(dear), &["tokenizer.json"]);
    let long = refused(|f| f.tokenizer["model"]["vocab"]["q".repeat(2000)] = json!(259));
    says(&long, &["tokenizer.json", "2000 bytes"]);

    let dir = Decoder::random(1).write();
    let file = std::fs::File::create(dir.path().join("tokenizer.json")).unwrap();
    file.set_len((64 << 20) + 1).unwrap();
    says(&Generator::open(dir.path()).err().expect("too large").to_string(), &["67108865 bytes", "67108864"]);
}

#[test]
fn a_tokenizer_whose_frame_leaves_no_room_or_has_no_rows_is_refused() {
    let frame = |ids: u32, count: usize| {
        let mut single = vec![json!({"SpecialToken": {"id": "s", "type_id": 0}}); count];
        single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
        json!({"type": "TemplateProcessing", "single": single, "pair": [],
            "special_tokens": {"s": {"id": "s", "ids": [ids], "tokens": ["s"]}}})
    };
    let message = refused(|f| f.tokenizer["post_processor"] = frame(258, 1_000));
    says(&message, &["tokenizer.json", "frames a text with 1000 tokens, the model takes 96 in all"]);
    let message = refused(|f| f.tokenizer["post_processor"] = frame(264, 1));
    says(&message, &["tokenizer.json", "frames a text with token 264, the model has 264 rows"]);
    let mut framed = Decoder::random(1);
    framed.tokenizer["post_processor"] = frame(258, 2);
    let generator = Generator::open(framed.write().path()).unwrap();
    assert_eq!(generator.encode("a", true).unwrap(), [258, 258, 97]);
}

#[test]
fn absurd_shapes_of_a_decoder_are_refused_by_field() {
    for (field, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(u64::MAX)),
        ("intermediate_size", json!(1 << 30)),
        ("num_hidden_layers", json!(u64::MAX)),
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(1 << 20)),
        ("num_key_value_heads", json!(0)),
        ("num_key_value_heads", json!(8)),
        ("head_dim", json!(0)),
        ("head_dim", json!(1 << 20)),
        ("vocab_size", json!(0)),
        ("vocab_size", json!(1u64 << 40)),
        ("max_position_embeddings", json!(1)),
        ("max_position_embeddings", json!(1u64 << 50)),
        ("rope_theta", json!(0.0)),
        ("rope_theta", json!(1e300)),
        ("rms_norm_eps", json!(-1e-6)),
        ("rms_norm_eps", json!(1.0)),
    ] {
        let message = refused(|f| f.config[field] = value.clone());
        says(&message, &["config.json", &format!("`{field}`"), "expected"]);
    }
    for value in [json!(-16), json!("16"), json!(null), json!(16.5)] {
        says(&refused(|f| f.config["hidden_size"] = value.clone()), &["config.json"]);
    }
}

#[test]
fn lying_offsets_of_a_decoders_weights_are_refused() {
    let raw = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let tensor = |offsets: &str| {
        format!(r#"{{"lm_head.weight":{{"dtype":"BF16","shape":[4],"data_offsets":{offsets}}}}}"#)
    };
    for (bytes, reason) in [
        (raw(&tensor("[0,8]"), 4), "cover 8 bytes, the file holds 4"),
        (raw(&tensor("[0,8]"), 9), "cover 8 bytes, the file holds 9"),
        (raw(&tensor("[8,16]"), 16), "offset"),
        (raw(&tensor("[8,0]"), 8), "offset"),
        (raw(&tensor("[0,18446744073709551615]"), 8), "safetensors header"),
        (u64::MAX.to_le_bytes().to_vec(), "claims 18446744073709551615 bytes"),
        (vec![], "the file has 0"),
    ] {
        says(&refused_file("model.safetensors", &bytes), &["model.safetensors", reason]);
    }
}

#[test]
fn weights_that_are_no_numbers_are_found_in_every_precision() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        for (value, said) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
            let mut folder = Decoder::random(1);
            folder.poke("model.layers.1.mlp.down_proj.weight", 9, value);
            let dir = if dtype == Dtype::F32 { folder } else { folder.in_16_bits(dtype) }.write();
            for precision in [Precision::Stored, Precision::Int8] {
                let options = Options { precision, ..Options::default() };
                let error = Generator::open_with(dir.path(), options).err().expect("a refusal").to_string();
                says(&error, &["`model.layers.1.mlp.down_proj.weight`", &format!("element 9 is {said}")]);
            }
        }
    }
}
