# Sandboxing, systemd.exec(5): a service begins with all of it, and takes back what it needs with the
# reason beside it. Plain attribute sets for serviceConfig.
rec {
  # Whatever needs no user namespace.
  strict = filesystem // {
    NoNewPrivileges = true;
    CapabilityBoundingSet = "";
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    PrivateDevices = true;
    PrivateMounts = true;
    ProcSubset = "pid";
    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    RemoveIPC = true;
    RestrictAddressFamilies = [ "AF_UNIX" ];
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallFilter = [
      "@system-service"
      "~@privileged @resources"
    ];
    IPAddressDeny = "any";
  };

  # For services that start newuidmap(1), a setuid program: no NoNewPrivileges. For a User= systemd before
  # 257 sets that by itself with every option that is a system call filter (PrivateDevices, Protect…,
  # Restrict…, LockPersonality, MemoryDenyWriteExecute), so none of them is here.
  userNamespaces = filesystem // {
    # newuidmap and newgidmap are root's by their setuid bit. The kernel lets them write the map of
    # somebody else's process and namespace with these (user_namespaces(7), map_write()).
    CapabilityBoundingSet = [
      "CAP_SETUID"
      "CAP_SETGID"
      "CAP_DAC_OVERRIDE"
      "CAP_SYS_ADMIN"
    ];
    DevicePolicy = "closed";
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
