# Sandboxing, systemd.exec(5): a service begins with all of it, and takes back what it needs with the
# reason beside it. Plain attribute sets for serviceConfig, and what our services have in common.
rec {
  # daemon SANDBOX UNIT: a service that is always there. What the unit says itself comes last.
  daemon =
    sandbox: unit:
    {
      wantedBy = [ "multi-user.target" ];
      startLimitIntervalSec = 0;
    }
    // unit
    // {
      serviceConfig = sandbox // restart // unit.serviceConfig;
    };

  as = user: {
    User = user;
    Group = user;
  };

  # A peer, or a listener, on this host's loopback.
  loopback = {
    RestrictAddressFamilies = families;
    IPAddressAllow = "localhost";
  };

  families = [
    "AF_UNIX"
    "AF_INET"
    "AF_INET6"
  ];

  # Whose work is the jobs' files: forJobs config.services.flashpods.
  forJobs =
    cfg:
    let
      inherit (cfg.settings) paths;
    in
    userNamespaces
    // as "flashpods"
    // {
      TimeoutStopSec = "30s";
      ReadWritePaths = [
        (dirOf paths.database)
        paths.artifacts
        paths.capture
        paths.logs
        cfg.podman.storageConf.storage.graphroot # it empties dead containers' layers
      ];
      BindPaths = [ (dirOf paths.transfers) ]; # in a /tmp of our own
      # It ends what a dead container left in its cgroup: no ProtectControlGroups. It sees that jobs
      # live, and what they hold open, in /proc: no ProtectProc.
      InaccessiblePaths = [
        "-/var/lib/spire"
        "-/run/spire/server"
      ];
    };

  # Whatever needs no user namespace.
  strict = common // {
    NoNewPrivileges = true;
    CapabilityBoundingSet = "";
    PrivateMounts = true;
    ProcSubset = "pid";
    ProtectControlGroups = true;
    ProtectProc = "invisible";
    RemoveIPC = true;
    RestrictAddressFamilies = [ "AF_UNIX" ];
    RestrictNamespaces = true;
    RestrictSUIDSGID = true;
    SystemCallFilter = [
      "@system-service"
      "~@privileged @resources"
    ];
    IPAddressDeny = "any";
  };

  # For services that start newuidmap(1), a setuid program: no NoNewPrivileges. Before systemd 257 the
  # filters below set that by themselves for a User= (docs/decisions/0012). No RestrictSUIDSGID, which
  # takes openat2(2) away: artifacts are resolved by it. No RemoveIPC: Podman, of the same user, has its
  # locks in /dev/shm.
  userNamespaces = common // {
    # newuidmap and newgidmap are root's by their setuid bit. The kernel lets them write the map of
    # somebody else's process and namespace with these (user_namespaces(7), map_write()).
    CapabilityBoundingSet = [
      "CAP_SETUID"
      "CAP_SETGID"
      "CAP_DAC_OVERRIDE"
      "CAP_SYS_ADMIN"
    ];
    RestrictAddressFamilies = families;
    RestrictNamespaces = "user";
    SystemCallFilter = [ "@system-service" ];
  };

  common = filesystem // {
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    PrivateDevices = true;
    ProtectClock = true;
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    RestrictRealtime = true;
    SystemCallArchitectures = "native";
  };

  filesystem = {
    ProtectSystem = "strict";
    ProtectHome = true;
    PrivateTmp = true;
    KeyringMode = "private";
    UMask = "0077";
  };

  # Always again, at first soon, then more slowly; the journal says why.
  restart = {
    Restart = "always";
    RestartSec = "1s";
    RestartSteps = 5;
    RestartMaxDelaySec = "30s";
  };
}
