// Words of the API's page. What the description itself says is English, as the server writes it.

import { words } from "../i18n.js";

words({
  en: {
    "docs.title": "Hornbook API", "docs.home": "To the page", "docs.key": "Key, where the server wants one", "docs.filter": "Filter",
    "docs.filter.hint": "chat, /kb, embeddings", "docs.none": "Nothing has that in its path or summary.", "docs.failed": "The description could not be read.",
    "docs.about": "Everything this server answers to, from its own /openapi.json. What is sent from here is done for real.",
    "docs.parameters": "Parameters", "docs.body": "Body", "docs.name": "Name", "docs.type": "Type", "docs.means": "Meaning", "docs.required": "required",
    "docs.answers": "Answers", "docs.try": "Try it", "docs.send": "Send", "docs.stop": "Stop", "docs.json": "JSON body", "docs.json.wrong": "This is not JSON: {why}",
    "docs.status": "Status {status} in {n} ms", "docs.sending": "Sending…", "docs.curl": "Copy as curl", "docs.copied": "Copied", "docs.answer": "Answer",
    "error.unreached": "The server cannot be reached.", "loading": "Loading…",
  },
  zh: {
    "docs.title": "Hornbook API", "docs.home": "回到页面", "docs.key": "密钥（服务器要求时）", "docs.filter": "筛选",
    "docs.filter.hint": "chat、/kb、embeddings", "docs.none": "没有匹配的路径或摘要。", "docs.failed": "无法读取接口描述。",
    "docs.about": "此服务器的全部接口，来自它自己的 /openapi.json。从这里发送的请求会真正执行。",
    "docs.parameters": "参数", "docs.body": "请求体", "docs.name": "名称", "docs.type": "类型", "docs.means": "含义", "docs.required": "必填",
    "docs.answers": "响应", "docs.try": "试用", "docs.send": "发送", "docs.stop": "停止", "docs.json": "JSON 请求体", "docs.json.wrong": "不是有效的 JSON：{why}",
    "docs.status": "状态 {status}，用时 {n} 毫秒", "docs.sending": "正在发送…", "docs.curl": "复制为 curl", "docs.copied": "已复制", "docs.answer": "响应内容",
    "error.unreached": "无法连接服务器。", "loading": "正在加载…",
  },
});
