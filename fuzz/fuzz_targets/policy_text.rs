#![no_main]
shears_fuzz::run!("policy_text");
