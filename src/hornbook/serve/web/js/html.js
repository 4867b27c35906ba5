// The component library, named once: everything else imports it from here.
export {
  html, render, useState, useEffect, useLayoutEffect, useRef, useMemo, useCallback,
} from "../vendor/htm-3.1.1/standalone.module.js";
