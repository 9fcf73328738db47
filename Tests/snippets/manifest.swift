// A part of Package.swift, for tools/check-snippets.
import PackageDescription

let URL = "https://example.org/bus1"
let package = Package(
    name: "App",
    // SNIPPET
)
