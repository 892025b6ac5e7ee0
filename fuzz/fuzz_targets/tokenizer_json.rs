#![no_main]
shears_fuzz::run!("tokenizer_json");
