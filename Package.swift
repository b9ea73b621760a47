// swift-tools-version: 6.2
import PackageDescription

/// Settings of every target: language mode 6, warnings are errors, no implicit existentials.
let house: [SwiftSetting] = [
    .swiftLanguageMode(.v6), .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"), .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

// Below CacheRuntime there are no packages: the data plane is liburing and the standard library.
let dataPlane: [Target] = [
    .systemLibrary(name: "CLiburing", pkgConfig: "liburing", providers: [.apt(["liburing-dev"])]),
    .target(name: "CBytes"),
    .target(name: "CLinux"),
    .target(name: "CSpin"),
    .target(name: "CStoreTrap"),
    .target(name: "SystemFiles", swiftSettings: house),
    .target(name: "Uring", dependencies: ["CLiburing"], swiftSettings: house),
    .target(
        name: "Ublk", dependencies: ["Uring", "CLinux", "SystemFiles"], swiftSettings: house),
    .target(name: "CacheFormat", dependencies: ["CBytes"], swiftSettings: house),
    .target(
        name: "CacheEngine", dependencies: ["CacheFormat", "CBytes", "CSpin"], swiftSettings: house),
    .target(
        name: "CacheRuntime",
        dependencies: ["CacheEngine", "CacheFormat", "Ublk", "Uring", "CLinux", "SystemFiles"],
        swiftSettings: house),
    .target(
        name: "Simulator", dependencies: ["CacheEngine", "CacheFormat", "CStoreTrap"],
        swiftSettings: house),
]

let controlPlane: [Target] = [
    .target(name: "ControlProtocol", swiftSettings: house),
    .target(
        name: "ControlPlane",
        dependencies: [
            "ControlProtocol", "CacheRuntime", "CacheEngine", "CacheFormat", "Ublk", "CLinux",
            "CSpawn",
            .product(name: "Hummingbird", package: "hummingbird"),
            .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
            .product(name: "Logging", package: "swift-log"),
            .product(name: "HTTPTypes", package: "swift-http-types"),
            .product(name: "NIOCore", package: "swift-nio"),
        ], swiftSettings: house),
    .target(
        name: "ControlClient",
        dependencies: [
            "ControlProtocol", "SystemFiles",
            .product(name: "AsyncHTTPClient", package: "async-http-client"),
            .product(name: "NIOCore", package: "swift-nio"),
            .product(name: "NIOHTTP1", package: "swift-nio"),
        ], swiftSettings: house),
    .target(name: "CSpawn"),
    .target(
        name: "CasadmCore",
        dependencies: [
            "ControlProtocol", "ControlClient", "CacheFormat", "CSpawn", "SystemFiles",
            .product(name: "ArgumentParser", package: "swift-argument-parser"),
        ], swiftSettings: house),
]

let programs: [Target] = [
    .executableTarget(name: "casadm", dependencies: ["CasadmCore"], swiftSettings: house),
    .executableTarget(
        name: "casd",
        dependencies: [
            "ControlPlane", "ControlProtocol",
            .product(name: "ArgumentParser", package: "swift-argument-parser"),
            .product(name: "Logging", package: "swift-log"),
        ], swiftSettings: house),
    .executableTarget(
        name: "ublk",
        dependencies: [
            "Ublk", "Uring", "CLinux", "CSpawn", "SystemFiles",
            .product(name: "ArgumentParser", package: "swift-argument-parser"),
        ], swiftSettings: house),
    .executableTarget(
        name: "bench",
        dependencies: [
            "CacheEngine", "CacheFormat", "CacheRuntime", "Uring", "CLinux",
            .product(name: "ArgumentParser", package: "swift-argument-parser"),
            .product(name: "Histogram", package: "hdrhistogram-swift"),
        ], swiftSettings: house),
    .executableTarget(
        name: "powercut",
        dependencies: [
            "CLinux", .product(name: "ArgumentParser", package: "swift-argument-parser"),
        ], swiftSettings: house),
    .executableTarget(
        name: "simulate",
        dependencies: [
            "Simulator", .product(name: "ArgumentParser", package: "swift-argument-parser"),
        ], swiftSettings: house),
]

let examples: [Target] = [
    .executableTarget(
        name: "ramdisk", dependencies: ["Ublk"], path: "Examples/ramdisk", swiftSettings: house)
]

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .testTarget(name: name, dependencies: dependencies, swiftSettings: house)
}

let package = Package(
    name: "ublk-cas",
    products: [.library(name: "Ublk", targets: ["Ublk", "Uring"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
        .package(url: "https://github.com/apple/swift-http-types", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.0"),
        .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    ],
    targets: dataPlane + controlPlane + programs + examples + [
        tests("UringTests", ["Uring", "CLinux"]),
        tests("UblkTests", ["Ublk", "CLinux", "ublk"]),
        tests("CacheFormatTests", ["CacheFormat", "CBytes"]),
        tests("CacheEngineTests", ["CacheEngine", "CacheFormat"]),
        tests("CacheRuntimeTests", ["CacheRuntime", "CacheEngine", "CacheFormat", "CLinux"]),
        tests(
            "ControlPlaneTests",
            [
                "ControlPlane", "ControlProtocol", "ControlClient",
                .product(name: "Hummingbird", package: "hummingbird"),
                .product(name: "Logging", package: "swift-log"),
            ]),
        tests("CasadmTests", ["CasadmCore", "ControlClient", "ControlProtocol", "CacheFormat"]),
        tests("SimulatorTests", ["Simulator", "CacheEngine", "CacheFormat"]),
        tests("PowercutTests", ["powercut"]),
        tests("TidyTests", []),
    ]
)
